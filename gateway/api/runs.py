"""Runs over REST: create them, follow them, steer them, read what they recorded."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from anyio import from_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Header, HTTPException, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BeforeValidator, Field
from sqlalchemy import RowMapping

from pmd.gateway.api import examples
from pmd.gateway.api.deps import Parts, RunId, Runs, TheParts
from pmd.gateway.api.forward import Forwarder
from pmd.gateway.api.history import checkpoint_views, latest_view, memory_events, recipe_of, run_view, step_views
from pmd.gateway.disk import GIB, LOW_BYTES, free_bytes
from pmd.gateway.loop.plan import step_plan
from pmd.gateway.loop.state import CALLS, last_step
from pmd.gateway.recipes import hub, specs
from pmd.gateway.recipes.models import resolve
from pmd.gateway.recipes.preview import preview
from pmd.gateway.recipes.problems import (
    SHOWN,
    Refused,
    check_allowed,
    find_base,
    find_data,
    materialise,
    parse_recipe,
)
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.recipes.start import Banks, WrongStart
from pmd.gateway.registry.registry import IdempotencyConflict, UnknownRun
from pmd.gateway.registry.status import ENDED, Desired
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


def _refusing(services: Forwarder) -> Refused:
    """What the verifier says of specs; for routes that run in a thread."""

    def ask(body: Mapping[str, Any]) -> tuple[int, Any]:
        try:
            answer = from_thread.run(services.send, "verifier", "/v1/specs:validate", body, specs.CHECK_S)
            return answer.status_code, json.loads(bytes(answer.body))
        except HTTPException as away:
            return away.status_code, None
        except ValueError:
            return 502, None

    return lambda problems: specs.refused(problems, ask)


def _banks(parts: Parts) -> Banks:
    """What the installation knows of banks; for routes that run in a thread."""

    def export(run: str, moment: str | None) -> tuple[bytes, str | None]:
        try:
            model = json.loads(parts.registry.run(run)["inputs"]).get("model")
        except UnknownRun:
            raise WrongStart(f"no run {run!r}; GET /v1/runs lists them") from None
        answer = from_thread.run(parts.services.get, "memory", f"/v1/banks/{run}/export", {"seq": moment})
        if answer.status_code >= 400:
            raise WrongStart(f"the bank of run {run!r}: {_told(answer)}")
        return bytes(answer.body), model

    def objection(content: bytes) -> str:
        path = "/v1/banks/start-from:import?dry_run=true"
        answer = from_thread.run(parts.services.send_file, "memory", path, content)
        return _told(answer) if answer.status_code >= 400 else ""

    return Banks(export, objection)


def _told(refusal: Response) -> str:
    """What a service says of what it refuses."""
    try:
        said = json.loads(bytes(refusal.body))
        return "; ".join([f"{each['field']}: {each['message']}" for each in said.get("errors", [])] or [said["title"]])
    except (ValueError, LookupError, TypeError):
        return f"HTTP {refusal.status_code}"


def _view(parts: Parts, run: str) -> RunView:
    registry = parts.registry
    row = registry.run(run)
    raised, latest = registry.alarms([run]).get(run, []), latest_view(registry.latest(run))
    open_steps = [phase for phase in registry.phases(run, since=row["step"]) if phase["status"] != "cleared"]
    newest = max((phase["step"] for phase in open_steps), default=0)
    phases = [phase for phase in open_steps if phase["step"] == newest]
    view = _waiting(parts, row, run_view(row, phases, alarms=raised, latest=latest))
    return view.model_copy(update={"warnings": [*view.warnings, *_full_disk(row)]})


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


def _run_id(recipe: Recipe, key: str | None) -> str:
    mark = hashlib.sha256(key.encode()).hexdigest() if key else uuid.uuid4().hex
    return f"{recipe.name[:80]}-{mark[:8]}"


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
    run, created = await parts.reading.run(lambda: _create(parts, body.recipe, idempotency_key))
    if created is not None:
        later.add_task(parts.wake, run)  # after the answer: a broker that is away delays nobody
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/runs/{run}"
    return await run_in_threadpool(_view, parts, run)


def _create(parts: Parts, tree: dict[str, Any], key: str | None) -> tuple[str, bool | None]:
    """The run of a recipe, and whether this call created it; None when it was known before."""
    recipe = parse_recipe(tree)
    known = parts.registry.find_key(key) if key else None
    if known and known[1] != recipe:
        raise IdempotencyConflict(f"Idempotency-Key names run {known[0]!r} with another recipe; use a new key")
    if known:
        return known[0], None
    check_allowed(recipe, parts.settings.allowed())
    base = find_base(recipe, lambda model: resolve.require(model, parts.downloads.require))
    frozen = find_data(recipe, parts.downloads.require)
    run = _run_id(recipe, key)
    inputs = materialise(frozen, run, parts.settings.runs_uri(), _refusing(parts.services), base, _banks(parts))
    return run, parts.registry.create(run, recipe, inputs, key=key)


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
    return _view(parts, run)


def _steer(parts: Parts, run: str, desired: Desired, later: BackgroundTasks) -> RunView:
    parts.registry.ask(run, desired)
    later.add_task(parts.wake, run)
    return _view(parts, run)


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
    seen = preview(recipe, _refusing(parts.services), _banks(parts), hub.here)
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
        run=await run_in_threadpool(_view, parts, run),
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
