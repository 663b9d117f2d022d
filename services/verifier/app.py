"""The verifier's HTTP face: `POST /v1/verify` for a few completions now, job `verify` for an artifact of rollouts.

Invariants:
- The service does not start where it can't isolate programs, unless its settings say so.
- What it holds is bounded: bodies by `Admission`, programs by `Pool`. Too much is 429 with `Retry-After`.
- When it stops, a request under way gets its verdicts within the time that uvicorn leaves it, or 503; jobs under way
  stay without an end and run again. Every zygote and child stops with the service.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from pmd.services.common.app import create_service
from pmd.services.common.jobstore import JobStore
from pmd.services.common.runner import JobRunner
from pmd.services.common.serve import DRAIN_S
from pmd.services.verifier.admission import Admission
from pmd.services.verifier.routes import routes
from pmd.services.verifier.service import Verifier, job_kinds
from pmd.services.verifier.settings import VerifierSettings
from pmd.services.verifier.termination import noticing_termination

GRACE_S = DRAIN_S - 2
"""Seconds that requests under way have when the service stops; uvicorn cuts them off a little later."""


def create_app(settings: VerifierSettings) -> FastAPI:
    """The verifier's application. The sandbox opens when it starts and closes when it stops.

    Raises (at start):
        SandboxUnavailable: this machine can't isolate programs and `sandbox_insecure` is not set.
    """
    most = settings.max_pending_mb << 20
    verifier = Verifier(Admission(max(most, settings.max_request_mb << 20), grace_s=GRACE_S))
    store = JobStore("verifier", settings.jobs_database("verifier"))
    jobs = JobRunner("verifier", store, job_kinds(verifier))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        verifier.start(settings)
        jobs.recover()
        try:
            with noticing_termination(verifier.admission.drain):
                yield
        finally:
            verifier.admission.drain()
            jobs.close()
            verifier.stop()

    app = create_service(
        "verifier",
        settings,
        ready=verifier.details,
        lifespan=lifespan,
        max_json_bytes=settings.max_request_mb << 20,
        admit=verifier.admission.let_in,
    )
    app.include_router(jobs.router())

    app.state.verifier = verifier
    app.include_router(routes)
    return app
