"""Runs over REST: create them, follow them, steer them, read what they recorded."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BeforeValidator, Field
from sqlalchemy import RowMapping

from pmd.gateway.api import examples
from pmd.gateway.api.creation import banks_of, create, refusing
from pmd.gateway.api.deps import Parts, RunId, Runs, TheParts
from pmd.gateway.api.history import checkpoint_views, latest_view, memory_events, recipe_of, run_view, step_views
from pmd.gateway.disk import GIB, LOW_BYTES, free_bytes
from pmd.gateway.loop.plan import step_plan
from pmd.gateway.loop.state import CALLS, last_step
from pmd.gateway.recipes import hub
from pmd.gateway.recipes.preview import preview
from pmd.gateway.recipes.problems import (
    SHOWN,
    check_allowed,
    parse_recipe,
)
from pmd.gateway.registry.status import DELETE, ENDED, BeingDeleted, Desired
from pmd.gateway.views import (
    CheckpointView,
    EventView,
    PlannedPhase,
    ReportView,
    RunStatus,
    RunView,
    ValidatedRecipe,
)
from pmd.services.common.app import known_query
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Slug

MAX_SEQ = 2**63 - 1
"""Largest number that the registry's databases hold."""

routes = APIRouter(dependencies=[Depends(known_query)])


class CreateRun(Strict):
    """What a run is created from."""

    recipe: dict[str, Any] = Field(examples=[examples.RECIPE])
    """A recipe as `pmd.gateway.recipes.files.load_recipe` reads it from a file: paths absolute, prompts by content."""


def view(parts: Parts, run: str) -> RunView:
    """A run as it stands, with the phases of its step in progress."""
    registry = parts.registry
    row = registry.run(run)
    raised, latest = registry.alarms([run]).get(run, []), latest_view(registry.latest(run))
    open_steps = [phase for phase in registry.phases(run, since=row["step"]) if phase["status"] != "cleared"]
    newest = max((phase["step"] for phase in open_steps), default=0)
    phases = [phase for phase in open_steps if phase["step"] == newest]
    found = _waiting(parts, row, run_view(row, phases, alarms=raised, latest=latest))
    return found.model_copy(update={"warnings": [*found.warnings, *_full_disk(row), *_deleting(row)]})


def _waiting(parts: Parts, row: RowMapping, view: RunView) -> RunView:
    """`view` with what its run waits for: what its owner has written, or else why it has none."""
    if (reason := parts.registry.reason(row)) is not None:
        return view.model_copy(update={"waiting": reason, "waiting_since": row["waiting_since"]})
    alone = parts.broker.left_alone(row) if parts.broker else None
    return view if alone is None else view.model_copy(update={"waiting": alone[0], "waiting_since": alone[1]})


def _full_disk(row: RowMapping) -> list[str]:
    """Told as it is now: where the disk is full, no event can be written that says so."""
    free = free_bytes(json.loads(row["inputs"])["root"])
    if row["status"] in ENDED or free is None or free >= LOW_BYTES:
        return []
    return [f"now only {free / GIB:.2f} GiB free where the run is kept; a full disk is waited for: make room"]


def _deleting(row: RowMapping) -> list[str]:
    return [str(BeingDeleted(row["id"]))] if row["desired"] == DELETE else []


@routes.post("/v1/runs", status_code=201, tags=["runs"], responses=examples.CREATE)
async def create_run(
    body: CreateRun,
    parts: TheParts,
    response: Response,
    later: BackgroundTasks,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RunView:
    """Create a run and start it. With an `Idempotency-Key`, repeating the request returns the same run.

    A model or data set of the hub that is not here yet is fetched in the background; until it is here, 503 says how far
    it is.
    """
    run, created = await parts.reading.run(lambda: create(parts, body.recipe, idempotency_key))
    if created is not None:
        later.add_task(parts.wake, run)  # after the answer: a broker that is away delays nobody
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/runs/{run}"
    return await run_in_threadpool(view, parts, run)


@routes.get("/v1/runs", tags=["runs"], responses=examples.RUN_LIST)
def list_runs(
    parts: TheParts,
    response: Response,
    status: Annotated[RunStatus | None, Query(description="Only runs with this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: Annotated[Slug | None, Query(description="Id of the last run of the page before.")] = None,
) -> list[RunView]:
    """Runs, newest first. The `Link` header names the next page, if there is one."""
    registry = parts.registry
    rows = registry.runs(limit=limit + 1, after=after, status=status)
    if len(rows) > limit:
        chosen = f"&status={status}" if status else ""
        last = rows[limit - 1]["id"]
        response.headers["Link"] = f'</v1/runs?limit={limit}&after={last}{chosen}>; rel="next"'
    raised = registry.alarms([row["id"] for row in rows[:limit]])
    return [_waiting(parts, row, run_view(row, alarms=raised.get(row["id"], ()))) for row in rows[:limit]]


@routes.get("/v1/runs/{run}", tags=["runs"], responses=examples.RUN)
def get_run(run: RunId, parts: TheParts) -> RunView:
    """A run as it stands, with the phases of its step in progress."""
    return view(parts, run)


def _steer(parts: Parts, run: str, desired: Desired, later: BackgroundTasks) -> RunView:
    parts.registry.ask(run, desired)
    later.add_task(parts.wake, run)
    return view(parts, run)


@routes.post("/v1/runs/{run}:pause", tags=["runs"], responses=examples.STEER)
def pause_run(run: RunId, parts: TheParts, later: BackgroundTasks) -> RunView:
    """Pause a run once its service calls in progress have ended."""
    return _steer(parts, run, "pause", later)


@routes.post("/v1/runs/{run}:resume", tags=["runs"], responses=examples.STEER)
def resume_run(run: RunId, parts: TheParts, later: BackgroundTasks) -> RunView:
    """Go on with a paused or failed run; its failed tries are cleared."""
    return _steer(parts, run, "run", later)


@routes.post("/v1/runs/{run}:cancel", tags=["runs"], responses=examples.STEER)
def cancel_run(run: RunId, parts: TheParts, later: BackgroundTasks) -> RunView:
    """End a run for good and cancel its jobs; what it recorded stays."""
    return _steer(parts, run, "cancel", later)


@routes.post("/v1/recipes:validate", tags=["recipes"], responses=examples.VALIDATE)
async def validate_recipe(body: CreateRun, parts: TheParts) -> ValidatedRecipe:
    """Check a recipe, its problems and its model, and say what it would do; nothing is started, no
    weights and no data set fetched.

    What is not here yet is told in `missing`; what is wrong is refused.
    """
    return await parts.reading.run(lambda: _preview(parts, body.recipe))


def _preview(parts: Parts, tree: dict[str, Any]) -> ValidatedRecipe:
    recipe = parse_recipe(tree)
    check_allowed(recipe, parts.settings.allowed())
    seen = preview(recipe, refusing(parts.services), banks_of(parts), hub.here)
    return ValidatedRecipe(
        recipe=recipe.model_dump(mode="json"),
        steps=last_step(recipe),
        problems=seen.problems,
        bad_records=len(seen.bad),
        bad_examples=seen.bad[:SHOWN],
        model=seen.model,
        warnings=seen.warnings,
        estimate=seen.estimate,
        missing=seen.missing,
        start=seen.start,
        too_long=len(seen.long),
        long_examples=seen.long[:SHOWN],
        phases={
            step: [
                PlannedPhase(name=name, service=CALLS[name].service, kind=CALLS[name].kind)
                for name in step_plan(recipe, step)
            ]
            for step in range(min(1, last_step(recipe)) + 1)
        },
    )


@routes.get("/v1/runs/{run}/events", tags=["runs"], response_model=list[EventView], responses=examples.EVENTS)
def get_events(
    run: RunId,
    parts: TheParts,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events with a higher seq.")] = 0,
    last_event_id: Annotated[int, BeforeValidator(lambda given: given or 0), Header(ge=0, le=MAX_SEQ)] = 0,
    format: Annotated[Literal["sse", "json"], Query(description="A stream, or one page.")] = "sse",
    limit: Annotated[int, Query(ge=1, le=1000, description="Of a page.")] = 500,
) -> Any:
    """A run's log: replayed, then tailed until the run ends. `Last-Event-ID` or `after` resumes it."""
    parts.registry.run(run)
    since = max(after, last_event_id)
    if format == "json":
        return parts.registry.events(run, after=since, limit=limit)
    return StreamingResponse(
        parts.tails.stream(run, since),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@routes.get("/v1/runs/{run}/report", tags=["runs"], response_model=ReportView, responses=examples.REPORT)
async def get_report(
    run: RunId,
    parts: TheParts,
    format: Annotated[Literal["json", "html"], Query(description="Data, or a page.")] = "json",
) -> Any:
    """Everything that a run recorded, step by step, with samples of what it remembers."""
    row = await run_in_threadpool(parts.registry.run, run)
    state, _ = await run_in_threadpool(parts.registry.state, run)
    told = await run_in_threadpool(
        lambda: parts.registry.events(run, limit=None, types=("memory.edited", "memory.deleted"))
    )
    report = ReportView(
        run=await run_in_threadpool(view, parts, run),
        recipe=recipe_of(row),
        steps=await run_in_threadpool(step_views, state),
        start=state.inputs.start,
        memory_events=memory_events(told),
        memory_samples=await parts.services.memory_samples(run, state.recipe.levels),
    )
    if format == "json":
        return report
    from pmd.gateway.report import render_html  # noqa: PLC0415 -- draws figures, and only this answer needs them

    return HTMLResponse(await run_in_threadpool(render_html, report))


@routes.get("/v1/runs/{run}/checkpoints", tags=["runs"], responses=examples.CHECKPOINTS)
def get_checkpoints(run: RunId, registry: Runs) -> list[CheckpointView]:
    """Policy versions that were kept, oldest first, each with its memory-free scores where it was evaluated."""
    registry.run(run)
    return checkpoint_views(registry.state(run)[0])
