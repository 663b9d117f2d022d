"""How runs get on, over REST: their steps, the times of their phases, small curves, the storage that they take."""

from __future__ import annotations

import json
from typing import Annotated, Any

import fsspec
from fastapi import APIRouter, Depends, Query

from pmd.gateway.api import examples
from pmd.gateway.api.deps import Parts, RunId, Runs, TheParts
from pmd.gateway.api.history import phase_times, run_curve, step_views
from pmd.gateway.loop.state import PhaseName
from pmd.gateway.views import DiskUse, PhaseTime, RunCurve, StepView
from pmd.services.common.app import known_query
from pmd.services.common.wire import MAX_COUNT, Slug

MAX_CURVES = 100

routes = APIRouter(dependencies=[Depends(known_query)], tags=["runs"])


@routes.get("/v1/runs/{run}/steps", responses=examples.STEPS)
def list_steps(
    run: RunId,
    registry: Runs,
    after: Annotated[int, Query(ge=-1, le=MAX_COUNT, description="Only steps after this one.")] = -1,
) -> list[StepView]:
    """What each step recorded, oldest first; the newest may still lack its scores."""
    state, _ = registry.state(run)
    return [view for view in step_views(state) if view.step > after]


@routes.get("/v1/runs/{run}/phases", responses=examples.PHASE_TIMES)
def list_phases(
    run: RunId,
    registry: Runs,
    since: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Only of this step and later ones.")] = 0,
) -> list[PhaseTime]:
    """When each phase was worked on, failed attempts included, oldest first."""
    registry.run(run)
    return phase_times(registry.phases(run, since=since))


@routes.get("/v1/curves", responses=examples.CURVES)
def list_curves(
    registry: Runs,
    run: Annotated[list[Slug], Query(min_length=1, max_length=MAX_CURVES, description="The runs; may be repeated.")],
) -> list[RunCurve]:
    """The scores of many runs at once, for small pictures; a run that has none yet has an empty curve."""
    for each in run:
        registry.run(each)
    results = registry.results(run, (PhaseName.VERIFY, PhaseName.EVALUATE_VERIFY))
    return [run_curve(each, results.get(each, [])) for each in dict.fromkeys(run)]


@routes.get("/v1/runs/{run}/disk", responses=examples.DISK)
async def get_disk(run: RunId, parts: TheParts) -> DiskUse:
    """What a run takes of the storage. Its files are counted for each request: ask seldom."""
    return await parts.reading.run(lambda: _disk(parts, run))


def _disk(parts: Parts, run: str) -> DiskUse:
    root = json.loads(parts.registry.run(run)["inputs"])["root"]
    fs, path = fsspec.core.url_to_fs(root)
    found: dict[str, Any] = fs.find(path, detail=True) if fs.exists(path) else {}
    by_folder: dict[str, int] = {}
    for name, about in found.items():
        folder = name.removeprefix(path).strip("/").partition("/")[0]
        by_folder[folder] = by_folder.get(folder, 0) + int(about.get("size") or 0)
    return DiskUse(bytes=sum(by_folder.values()), files=len(found), by_folder=by_folder)
