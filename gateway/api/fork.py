"""Forking a run over REST: a new run that begins with another's weights and memory as they were at a step.

Invariants:
- The parent is read and never changed; what is taken of it is the new run's own afterwards (hard links, a frozen bank).
- The optimizer begins anew, and steps are counted from 0: a fork is a run of its own recipe.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, Header, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from pmd.gateway.api import examples
from pmd.gateway.api.creation import begin, known_by
from pmd.gateway.api.deps import Parts, RunId, TheParts
from pmd.gateway.api.history import checkpoint_views, recipe_of
from pmd.gateway.api.runs import view
from pmd.gateway.loop.state import PhaseName, RunState, version_after
from pmd.gateway.recipes.files import merge
from pmd.gateway.recipes.inputs import Parent
from pmd.gateway.recipes.models.resolve import Located
from pmd.gateway.recipes.problems import InvalidRecipe, check_allowed, find_base, parse_recipe
from pmd.gateway.recipes.recipe import OF_RUN
from pmd.gateway.views import RunView
from pmd.services.common.adapters import adapter_of
from pmd.services.common.app import known_query
from pmd.services.common.artifacts import MANIFEST, ArtifactError, check_weights, local_path
from pmd.services.common.strict import Strict
from pmd.services.common.wire import MAX_COUNT, Weights

routes = APIRouter(dependencies=[Depends(known_query)], tags=["runs"])


class Fork(Strict):
    """Where to begin, and what is to be different."""

    step: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    """The step of the parent; the newest whose weights are there, if missing."""
    set: dict[str, Any] = Field(default={}, examples=[{"optimizer": {"lr": 0.0001}}])
    """Keys of the recipe, laid over the parent's. `memory: {start_from: null}` begins with an empty memory."""


@routes.post("/v1/runs/{run}:fork", status_code=201, responses=examples.FORK)
async def fork_run(
    run: RunId,
    body: Fork,
    parts: TheParts,
    response: Response,
    later: BackgroundTasks,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> RunView:
    """Start a run from the weights and the memory that another run had after a step."""
    made, created = await parts.reading.run(lambda: fork(parts, run, body, idempotency_key))
    if created is not None:
        later.add_task(parts.wake, made)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/runs/{made}"
    return await run_in_threadpool(view, parts, made)


def fork(parts: Parts, run: str, body: Fork, key: str | None) -> tuple[str, bool | None]:
    """The new run, and whether this call created it; None when it was known before.

    Raises:
        HTTPException: 409 when there are no such weights, or they are no whole model.
        InvalidRecipe: the recipe can't be carried out.
    """
    row = parts.registry.run(run)
    state, _ = parts.registry.state(run)
    step, weights = _weights(state, body.step, int(row["step"]))
    if "model" in body.set:
        raise InvalidRecipe(
            [{"field": "set.model", "message": f"a fork begins with the weights of {run}; leave it out"}]
        )
    seq = seq_at(state, step)
    folder = local_path(weights.uri)
    tree = merge(recipe_of(row), {"model": str(folder), "memory": {"start_from": seq and f"{OF_RUN}{run}@{seq}"}})
    recipe = parse_recipe(merge(tree, body.set))
    if (known := known_by(parts.registry, key, recipe)) is not None:
        return known, None
    try:
        check_weights(weights)  # as they were published, or the fork would begin with something else in silence
    except ArtifactError as error:
        raise HTTPException(409, f"run {run!r} can't be forked at step {step}: {error}") from error
    if adapter_of(folder) is not None:
        cause = "its weights are an adapter (policy.lora), and a run begins with a whole model"
        fix = f"`pmd export {run} --step {step} --merge --to FOLDER` writes one, for `model` of a new recipe"
        raise HTTPException(409, f"run {run!r} can't be forked at step {step}: {cause}; {fix}")
    check_allowed(recipe, parts.settings.allowed(), own_model=True)
    base = find_base(recipe, lambda _: Located(folder, f"{run}@{weights.version}"))
    own = recipe.start_from == tree["memory"]["start_from"]
    parent = Parent(run=run, step=step, version=weights.version, seq=seq if own else None)
    return begin(parts, recipe, base, key, parent)


def seq_at(state: RunState, step: int) -> int | None:
    """The bank's `seq` when `step` was complete: what the memory service's jobs said last; None when nothing was
    remembered by then, or nothing is to be remembered from step to step."""
    if not state.recipe.levels or state.recipe.memory.transient:
        return None
    seqs = (int(record.result.get("seq") or 0) for (at, _), record in state.records.items() if at <= step)
    return max(seqs, default=0) or None


def _weights(state: RunState, asked: int | None, done: int) -> tuple[int, Weights]:
    """The step to begin from, and the weights in force after it."""
    kept = {view.step: view.weights for view in checkpoint_views(state) if _is_there(view.weights)}
    if not state.recipe.trains and 0 in kept:  # one version, in force after each step
        kept = dict.fromkeys(range(done + 1), kept[0])
    if not kept:
        raise HTTPException(
            409, f"run {state.run!r} has no weights to begin with: none are published, or all were removed"
        )
    step = max(kept) if asked is None else asked
    if step in kept:
        return step, kept[step]
    trained = (version_after(state.recipe, step), PhaseName.TRAIN) in state.records
    cause = "its weights were removed (schedule.keep_weights)" if trained else "it has no such weights"
    raise HTTPException(
        409, f"run {state.run!r} can't be forked at step {step}: {cause}; it can at {', '.join(map(str, sorted(kept)))}"
    )


def _is_there(weights: Weights) -> bool:
    try:
        return (local_path(weights.uri) / MANIFEST).is_file()
    except ArtifactError:
        return False
