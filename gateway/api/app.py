"""The public API: create runs, follow them, steer them, read what they recorded and remember.

Invariants: a request changes the registry or nothing (a deletion removes what was made of its run, too), and never
waits for work; every refusal names the field or the cause; the broker may be away.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY as PROMETHEUS
from sqlalchemy.exc import SQLAlchemyError

from pmd.gateway.api import (
    chat,
    dashboard,
    deletion,
    downloads,
    fork,
    memory,
    progress,
    rollouts,
    runs,
    sessions,
    verify,
)
from pmd.gateway.api.broker import Broker, redis
from pmd.gateway.api.deps import Parts, Wake
from pmd.gateway.api.events import Tails
from pmd.gateway.api.forward import Forwarder
from pmd.gateway.api.metrics import RunMetrics
from pmd.gateway.api.reading import Reading
from pmd.gateway.disk import GIB, free_bytes
from pmd.gateway.recipes.downloads import Cancelled, Coming, Downloads
from pmd.gateway.recipes.problems import Away, InvalidRecipe
from pmd.gateway.registry.codes import spend
from pmd.gateway.registry.registry import IdempotencyConflict, Registry, UnknownRun
from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.registry.status import BeingDeleted, ForbiddenTransition
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.app import NotReady, create_service
from pmd.services.common.bodies import problem

log = logging.getLogger(__name__)


def create_app(
    settings: GatewaySettings,
    *,
    wake: Wake | None = None,
    transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
) -> FastAPI:
    """The gateway over the registry and the services that `settings` names.

    Args:
        wake: asks for a run to be advanced soon; Celery does unless given.
        transports: how to reach services in tests, by name.
    """
    registry = Registry(REGISTRY.open(settings.database()))
    forward = Forwarder(settings.service_urls(), settings.tokens(), transports=transports)
    places = {"runs": settings.runs_uri(), "state": str(settings.state_dir.absolute())}
    metrics = RunMetrics(registry, places)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        PROMETHEUS.register(metrics)
        yield
        PROMETHEUS.unregister(metrics)
        await forward.close()
        registry.database.close()

    def ready() -> dict[str, Any]:
        try:
            runs = registry.count_by_status()
        except SQLAlchemyError as error:
            raise NotReady(f"the run registry is out of reach: {getattr(error, 'orig', None) or error}") from error
        details = {"registry": registry.database.engine.dialect.name, "runs_uri": settings.runs_uri(), "runs": runs}
        free = {name: free_bytes(uri) for name, uri in places.items()}
        return details | {f"{name}_free_gib": round(left / GIB, 2) for name, left in free.items() if left is not None}

    signed_in = sessions.Sessions(settings.tokens(), partial(spend, registry.database))

    def entrance(request: Request) -> Response | None:
        return None if dashboard.is_file_of_page(request.url.path) else signed_in.refusal(request)

    app = create_service(
        "gateway",
        settings,
        ready=ready,
        lifespan=lifespan,
        public=frozenset({sessions.PATH}),
        entrance=entrance,
        max_bytes_of={sessions.PATH: sessions.MAX_BYTES},
    )
    app.state.sessions = signed_in
    url = settings.redis_url.get_secret_value()
    broker = None if wake else Broker(url, redis(url))
    app.state.parts = Parts(
        settings, registry, forward, wake or _by_celery, broker, Reading(), Tails(registry), Downloads()
    )
    _explain_refusals(app)
    of_runs = (runs, fork, deletion, progress, rollouts, memory)
    for room in (sessions, *of_runs, downloads, verify, chat, dashboard):
        app.include_router(room.routes)
    return app


def _by_celery(run: str) -> None:
    from pmd.gateway.controller.tasks import wake  # noqa: PLC0415 -- tests and tools that drive runs by hand need no Celery

    wake(run)


def _explain_refusals(app: FastAPI) -> None:
    @app.exception_handler(UnknownRun)
    async def unknown(_: Request, error: UnknownRun) -> JSONResponse:
        return problem(404, f"no run {error.args[0]!r}; GET /v1/runs lists them")

    @app.exception_handler(ForbiddenTransition)
    async def forbidden(_: Request, error: ForbiddenTransition) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(BeingDeleted)
    async def being_deleted(_: Request, error: BeingDeleted) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(IdempotencyConflict)
    async def conflict(_: Request, error: IdempotencyConflict) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(InvalidRecipe)
    async def invalid(_: Request, error: InvalidRecipe) -> JSONResponse:
        return problem(422, "the recipe is not valid", error.fields)

    @app.exception_handler(Away)
    async def no_hub(_: Request, error: Away) -> JSONResponse:
        return problem(503, "what the recipe names of the hub is out of reach", error.fields, {"Retry-After": "30"})

    @app.exception_handler(Coming)
    async def coming(_: Request, error: Coming) -> JSONResponse:
        return problem(503, str(error), headers={"Retry-After": "10"})

    @app.exception_handler(Cancelled)
    async def cancelled(_: Request, error: Cancelled) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(SQLAlchemyError)
    async def registry_away(_: Request, error: SQLAlchemyError) -> JSONResponse:
        cause = getattr(error, "orig", None) or error
        log.error("the run registry is out of reach", exc_info=error)
        return problem(503, f"the run registry is out of reach ({cause}); mend that and try again")

    @app.exception_handler(OSError)
    async def no_storage(_: Request, error: OSError) -> JSONResponse:
        log.error("what a run starts with can't be written", exc_info=error)
        return problem(503, f"can't read or write {error.filename or 'the storage'}: {error.strerror or error}")
