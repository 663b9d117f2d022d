"""Which weights a run has exported."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from pmd.services.common.app import known_query
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Slug, Weights
from pmd.services.trainer.launchers import Launcher

routes = APIRouter(tags=["weights"], dependencies=[Depends(known_query)])


async def _launcher(request: Request) -> Launcher:
    launcher: Launcher = request.app.state.launcher
    return launcher


TheLauncher = Annotated[Launcher, Depends(_launcher)]


class Exported(Strict):
    """The policy versions that a run has exported, oldest first; version 0 is the base and not among them."""

    run: str
    weights: list[Weights]


@routes.get("/v1/runs/{run}/weights")
def list_weights(run: Annotated[Slug, Path()], launcher: TheLauncher) -> Exported:
    """Versions that a run has exported; empty for a run that has trained no step here."""
    return Exported(run=run, weights=launcher.spool(run).exported())
