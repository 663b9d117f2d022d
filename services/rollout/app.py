"""The rollout service: jobs `generate` and `publish`, chat, models.

Invariants:
- `/healthz` answers at once; torch and the weights load in the background, and `/readyz` is 503 until then.
- A restarted replica loads what its runs had published; `/readyz` lists each run's desired and loaded version,
  and the run is ready when they are equal. A run whose weights are gone or can't be loaded is listed as not ready and
  does not take the replica away from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from fastapi import FastAPI

from pmd.services.common.app import create_service
from pmd.services.common.holdings import holdings
from pmd.services.common.jobstore import JobStore
from pmd.services.common.runner import JobRunner
from pmd.services.rollout.handlers import job_kinds
from pmd.services.rollout.parts import Parts
from pmd.services.rollout.pool import create_pool
from pmd.services.rollout.routes import routes
from pmd.services.rollout.service import Replica
from pmd.services.rollout.settings import RolloutSettings


def create_app(settings: RolloutSettings) -> FastAPI:
    """The service as an ASGI application; its state lives in `<state_dir>/rollout`."""
    if settings.rollout_replicas:
        return create_pool(settings)
    replica = Replica(settings)
    store = JobStore("rollout", settings.jobs_database("rollout"))
    parts = Parts(settings.service_dir("rollout") / "parts.sqlite")
    jobs = JobRunner("rollout", store, job_kinds(replica.engine, replica.published, parts))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=replica.start, name="rollout-start", daemon=True).start()
        parts.drop_others(store.unowned())
        jobs.recover()
        queue = asyncio.create_task(replica.batcher.run())
        yield
        queue.cancel()
        jobs.close()
        replica.close()

    app = create_service("rollout", settings, ready=replica.ready, lifespan=lifespan)
    app.state.replica = replica
    for router in (
        jobs.router(),
        holdings(release=lambda run: replica.engine().release(run), forget=replica.published.forget),
        routes,
    ):
        app.include_router(router)
    return app
