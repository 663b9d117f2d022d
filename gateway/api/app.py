"""The public API: create runs, follow them, steer them, read what they recorded and remember.

Invariants: a request changes the registry or nothing, and never waits for work; every refusal names the field or
the cause; the broker may be away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import httpx
from anyio import from_thread
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import REGISTRY as PROMETHEUS
from pydantic import BeforeValidator, Field
from sqlalchemy import RowMapping
from sqlalchemy.exc import SQLAlchemyError

from pmd.gateway.api import events, examples
from pmd.gateway.api.forward import Forwarder
from pmd.gateway.api.history import checkpoint_views, latest_view, recipe_of, run_view, step_views
from pmd.gateway.api.memory import RunId, add_memory_routes
from pmd.gateway.api.metrics import RunMetrics
from pmd.gateway.api.verify import add_judging_routes
from pmd.gateway.disk import GIB, LOW_BYTES, free_bytes
from pmd.gateway.loop.plan import step_plan
from pmd.gateway.loop.state import CALLS, last_step
from pmd.gateway.recipes import specs
from pmd.gateway.recipes.problems import (
    SHOWN,
    InvalidRecipe,
    Refused,
    find_model,
    long_prompts,
    materialise,
    parse_recipe,
    problems_of,
)
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import IdempotencyConflict, Registry, UnknownRun
from pmd.gateway.registry.status import ENDED, Desired, ForbiddenTransition
from pmd.gateway.registry.tables import open_registry
from pmd.gateway.settings import GatewaySettings
from pmd.gateway.views import (
    CheckpointView,
    EventView,
    PlannedPhase,
    ReportView,
    RunStatus,
    RunView,
    ServiceView,
    ValidatedRecipe,
)
from pmd.services.common.app import NotReady, create_service, known_query, problem
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Slug

log = logging.getLogger(__name__)

MAX_SEQ = 2**63 - 1
"""Largest number that the registry's databases hold."""


class CreateRun(Strict):
    """What a run is created from."""

    recipe: dict[str, Any] = Field(examples=[examples.RECIPE])
    """A recipe as `pmd.gateway.recipes.files.load_recipe` reads it from a file: paths absolute, prompts by content."""


def create_app(
    settings: GatewaySettings,
    *,
    wake: Callable[[str], None] | None = None,
    transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
) -> FastAPI:
    """The gateway over the registry and the services that `settings` names.

    Args:
        wake: asks for a run to be advanced soon; Celery does unless given.
        transports: how to reach services in tests, by name.
    """
    registry = Registry(open_registry(settings.database()))
    forward = Forwarder(settings.service_urls(), settings.token.get_secret_value(), transports=transports)
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
            raise NotReady(f"the run registry is out of reach: {error}") from error
        facts = {"registry": registry.database.engine.dialect.name, "runs_uri": settings.runs_uri(), "runs": runs}
        free = {name: free_bytes(uri) for name, uri in places.items()}
        return facts | {f"{name}_free_gib": round(left / GIB, 2) for name, left in free.items() if left is not None}

    app = create_service("gateway", settings, ready=ready, lifespan=lifespan)
    app.state.registry = registry
    _explain_refusals(app)
    routes = APIRouter(dependencies=[Depends(known_query)])
    _add_run_routes(routes, settings, registry, wake or _by_celery, _refusing(forward))
    _add_reading_routes(routes, registry, forward)
    add_memory_routes(routes, registry, forward)
    add_judging_routes(routes, registry, forward)
    app.include_router(routes)
    _add_forwarded_routes(app.router, forward)
    return app


def _by_celery(run: str) -> None:
    from pmd.gateway.controller.tasks import wake  # noqa: PLC0415 -- tests and tools that drive runs by hand need no Celery

    wake(run)


def _refusing(forward: Forwarder) -> Refused:
    """What the verifier says of specs; for routes that run in a thread."""

    def ask(body: Mapping[str, Any]) -> tuple[int, Any]:
        try:
            answer = from_thread.run(forward.send, "verifier", "/v1/specs:validate", body, specs.CHECK_S)
            return answer.status_code, json.loads(bytes(answer.body))
        except HTTPException as away:
            return away.status_code, None
        except ValueError:
            return 502, None

    return lambda problems: specs.refused(problems, ask)


def _explain_refusals(app: FastAPI) -> None:
    @app.exception_handler(UnknownRun)
    async def unknown(_: Request, error: UnknownRun) -> JSONResponse:
        return problem(404, f"no run {error.args[0]!r}; GET /v1/runs lists them")

    @app.exception_handler(ForbiddenTransition)
    async def forbidden(_: Request, error: ForbiddenTransition) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(IdempotencyConflict)
    async def conflict(_: Request, error: IdempotencyConflict) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(InvalidRecipe)
    async def invalid(_: Request, error: InvalidRecipe) -> JSONResponse:
        return problem(422, "the recipe is not valid", error.fields)

    @app.exception_handler(SQLAlchemyError)
    async def registry_away(_: Request, error: SQLAlchemyError) -> JSONResponse:
        cause = getattr(error, "orig", None) or error
        log.error("the run registry is out of reach", exc_info=error)
        return problem(503, f"the run registry is out of reach ({cause}); mend that and try again")

    @app.exception_handler(OSError)
    async def no_storage(_: Request, error: OSError) -> JSONResponse:
        log.error("what a run starts with can't be written", exc_info=error)
        return problem(503, f"can't write {error.filename or 'to storage'}: {error.strerror or error}")


def _view(registry: Registry, run: str) -> RunView:
    row = registry.run(run)
    raised, latest = registry.alarms([run]).get(run, []), latest_view(registry.latest(run))
    open_steps = [phase for phase in registry.phases(run, since=row["step"]) if phase["status"] != "forgiven"]
    newest = max((phase["step"] for phase in open_steps), default=0)
    phases = [phase for phase in open_steps if phase["step"] == newest]
    view = run_view(row, phases, waiting=registry.reason(row), alarms=raised, latest=latest)
    return view.model_copy(update={"warnings": [*view.warnings, *_full_disk(row)]})


def _full_disk(row: RowMapping) -> list[str]:
    """Told as it is now: where the disk is full, no event can be written that says so."""
    free = free_bytes(json.loads(row["inputs"])["root"])
    if row["status"] in ENDED or free is None or free >= LOW_BYTES:
        return []
    return [f"now only {free / GIB:.2f} GiB free where the run is kept; a full disk is waited for: make room"]


def _run_id(recipe: Recipe, key: str | None) -> str:
    mark = hashlib.sha256(key.encode()).hexdigest() if key else uuid.uuid4().hex
    return f"{recipe.name[:80]}-{mark[:8]}"


def _add_run_routes(
    routes: APIRouter, settings: GatewaySettings, registry: Registry, wake: Callable[[str], None], refused: Refused
) -> None:
    @routes.post("/v1/runs", status_code=201, tags=["runs"], responses=examples.CREATE)
    def create_run(
        body: CreateRun,
        response: Response,
        later: BackgroundTasks,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    ) -> RunView:
        """Create a run and start it. With an `Idempotency-Key`, repeating the request returns the same run."""
        recipe = parse_recipe(body.recipe)
        digest = hashlib.sha256(json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
        known = registry.find_key(idempotency_key) if idempotency_key else None
        if known and known[1] != digest:
            raise IdempotencyConflict(f"Idempotency-Key names run {known[0]!r} with another recipe; use a new key")
        run = known[0] if known else _run_id(recipe, idempotency_key)
        created = False
        if not known:
            inputs = materialise(recipe, run, settings.runs_uri(), refused)
            created = registry.create(run, recipe, inputs, recipe_hash=digest, key=idempotency_key)
            later.add_task(wake, run)  # after the answer: a broker that is away delays nobody
        response.status_code = 201 if created else 200
        response.headers["Location"] = f"/v1/runs/{run}"
        return _view(registry, run)

    @routes.get("/v1/runs", tags=["runs"], responses=examples.RUN_LIST)
    def list_runs(
        response: Response,
        status: Annotated[RunStatus | None, Query(description="Only runs with this status.")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        after: Annotated[Slug | None, Query(description="Id of the last run of the page before.")] = None,
    ) -> list[RunView]:
        """Runs, newest first. The `Link` header names the next page, if there is one."""
        rows = registry.runs(limit=limit + 1, after=after, status=status)
        if len(rows) > limit:
            chosen = f"&status={status}" if status else ""
            last = rows[limit - 1]["id"]
            response.headers["Link"] = f'</v1/runs?limit={limit}&after={last}{chosen}>; rel="next"'
        raised = registry.alarms([row["id"] for row in rows[:limit]])
        return [run_view(row, waiting=registry.reason(row), alarms=raised.get(row["id"], ())) for row in rows[:limit]]

    @routes.get("/v1/runs/{run}", tags=["runs"], responses=examples.RUN)
    def get_run(run: RunId) -> RunView:
        """A run as it stands, with the phases of its step in progress."""
        return _view(registry, run)

    def steer(run: str, desired: Desired, later: BackgroundTasks) -> RunView:
        registry.ask(run, desired)
        later.add_task(wake, run)
        return _view(registry, run)

    @routes.post("/v1/runs/{run}:pause", tags=["runs"], responses=examples.STEER)
    def pause_run(run: RunId, later: BackgroundTasks) -> RunView:
        """Pause a run once its service calls in progress have ended."""
        return steer(run, "pause", later)

    @routes.post("/v1/runs/{run}:resume", tags=["runs"], responses=examples.STEER)
    def resume_run(run: RunId, later: BackgroundTasks) -> RunView:
        """Go on with a paused or failed run; failed attempts are forgiven."""
        return steer(run, "run", later)

    @routes.post("/v1/runs/{run}:cancel", tags=["runs"], responses=examples.STEER)
    def cancel_run(run: RunId, later: BackgroundTasks) -> RunView:
        """End a run for good and cancel its jobs; what it recorded stays."""
        return steer(run, "cancel", later)

    @routes.post("/v1/recipes:validate", tags=["recipes"], responses=examples.VALIDATE)
    def validate_recipe(body: CreateRun) -> ValidatedRecipe:
        """Check a recipe, its problems and its model, and say what it would do; nothing is started."""
        recipe = parse_recipe(body.recipe)
        find_model(recipe.model)
        problems, bad = problems_of(recipe, refused)
        long = long_prompts(recipe, problems)
        return ValidatedRecipe(
            recipe=recipe.model_dump(mode="json"),
            steps=last_step(recipe),
            problems=dict(Counter(p.split for p in problems)),
            bad_records=len(bad),
            bad_examples=bad[:SHOWN],
            too_long=len(long),
            long_examples=long[:SHOWN],
            phases={
                step: [
                    PlannedPhase(name=name, service=CALLS[name].service, kind=CALLS[name].kind)
                    for name in step_plan(recipe, step)
                ]
                for step in range(min(1, last_step(recipe)) + 1)
            },
        )


def _add_reading_routes(routes: APIRouter, registry: Registry, forward: Forwarder) -> None:
    @routes.get("/v1/runs/{run}/events", tags=["runs"], response_model=list[EventView], responses=examples.EVENTS)
    def get_events(
        run: RunId,
        after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events with a higher seq.")] = 0,
        last_event_id: Annotated[int, BeforeValidator(lambda given: given or 0), Header(ge=0, le=MAX_SEQ)] = 0,
        format: Annotated[Literal["sse", "json"], Query(description="A stream, or one page.")] = "sse",
        limit: Annotated[int, Query(ge=1, le=1000, description="Of a page.")] = 500,
    ) -> Any:
        """A run's log: replayed, then tailed until the run ends. `Last-Event-ID` or `after` resumes it."""
        registry.run(run)
        since = max(after, last_event_id)
        if format == "json":
            return registry.events(run, after=since, limit=limit)
        return StreamingResponse(
            events.stream(registry, run, since),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @routes.get("/v1/runs/{run}/report", tags=["runs"], response_model=ReportView, responses=examples.REPORT)
    async def get_report(
        run: RunId,
        format: Annotated[Literal["json", "html"], Query(description="Data, or a page.")] = "json",
    ) -> Any:
        """Everything that a run recorded, step by step, with samples of what it remembers."""
        row = await run_in_threadpool(registry.run, run)
        state, _ = await run_in_threadpool(registry.state, run)
        report = ReportView(
            run=run_view(row, alarms=(await run_in_threadpool(registry.alarms, [run])).get(run, ())),
            recipe=recipe_of(row),
            steps=await run_in_threadpool(step_views, state),
            memory_samples=await forward.memory_samples(run, state.recipe.levels),
        )
        if format == "json":
            return report
        from pmd.gateway.report import render_html  # noqa: PLC0415 -- draws figures, and only this answer needs them

        return HTMLResponse(await run_in_threadpool(render_html, report))

    @routes.get("/v1/runs/{run}/checkpoints", tags=["runs"], responses=examples.CHECKPOINTS)
    def get_checkpoints(run: RunId) -> list[CheckpointView]:
        """Policy versions that were kept, oldest first, each with its memory-free scores where it was evaluated."""
        registry.run(run)
        return checkpoint_views(registry.state(run)[0])


def _add_forwarded_routes(routes: APIRouter, forward: Forwarder) -> None:
    @routes.post(
        "/v1/chat/completions",
        tags=["chat"],
        response_class=JSONResponse,
        responses=examples.refusals(404),
        openapi_extra=examples.CHAT,
    )
    async def chat_completions(request: Request) -> Response:
        """Talk to a policy version, model `<run>@<version>`: OpenAI's protocol, no memory attached."""
        return await forward.post("rollout", "/v1/chat/completions", request)

    @routes.get("/v1/models", tags=["chat"], response_class=JSONResponse, responses=examples.MODELS)
    async def list_models() -> Response:
        """Models that can be talked to."""
        return await forward.get("rollout", "/v1/models")

    @routes.get("/v1/services", tags=["health"], responses=examples.SERVICES)
    async def list_services() -> list[ServiceView]:
        """Which services answer, and which profile and versions are in force there."""
        return await forward.services()
