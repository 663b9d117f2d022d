"""Downloads over REST: have here what a recipe names of the hub, see how far that is, end it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from pydantic import Field

from pmd.gateway.api import examples
from pmd.gateway.api.deps import Parts, TheParts
from pmd.gateway.recipes.downloads import Coming, Progress
from pmd.gateway.recipes.models import resolve
from pmd.gateway.recipes.models.names import hub_name
from pmd.gateway.recipes.problems import check_allowed, dataset_of, find_data, find_model, parse_recipe
from pmd.gateway.views import DownloadView
from pmd.services.common.app import known_query
from pmd.services.common.strict import Strict

routes = APIRouter(dependencies=[Depends(known_query)], tags=["downloads"])


class FetchRecipe(Strict):
    """What is to be fetched."""

    recipe: dict[str, Any] = Field(examples=[examples.RECIPE])
    weights: bool = True
    """Those of its model, too; to look at a recipe takes none."""


@routes.post("/v1/recipes:fetch", responses=examples.FETCH)
async def fetch(body: FetchRecipe, parts: TheParts) -> list[DownloadView]:
    """Have here the model and the data set that a recipe names of the hub, and say how far they are. Repeat it until
    all are `ready`; nothing is fetched twice, and what was cut short goes on with the files that are whole."""
    return await parts.reading.run(lambda: _fetch(parts, body))


def _fetch(parts: Parts, body: FetchRecipe) -> list[DownloadView]:
    recipe = parse_recipe(body.recipe)
    check_allowed(recipe, parts.settings.allowed())
    found = []
    if body.weights and hub_name(recipe.model):
        try:
            located = find_model(recipe.model, lambda model: resolve.require(model, parts.downloads.require))
            found.append(DownloadView(kind="model", name=located.name, status="ready"))
        except Coming as coming:
            found.append(_view(coming.progress))
    if dataset_of(recipe):
        try:
            name = dataset_of(find_data(recipe, parts.downloads.require))
            found.append(DownloadView(kind="dataset", name=name, status="ready"))
        except Coming as coming:
            found.append(_view(coming.progress))
    return found


@routes.get("/v1/downloads", responses=examples.DOWNLOADS)
async def list_downloads(parts: TheParts) -> list[DownloadView]:
    """Downloads in progress, the oldest first."""
    return [_view(progress) for progress in parts.downloads.running()]


class CancelDownload(Strict):
    """Which download is to end."""

    name: str = Field(examples=["Qwen/Qwen3-8B@9c925d64d72725edaf899c6cb9c377fd0709d9c5"])
    """`owner/name@commit`, as the list says."""


@routes.post("/v1/downloads:cancel", responses=examples.CANCEL_DOWNLOAD)
async def cancel_download(body: CancelDownload, parts: TheParts) -> list[DownloadView]:
    """End a download within some megabytes. Files that are whole stay; who waits for it is told, with 409."""
    found = parts.downloads.cancel(body.name)
    if not found:
        raise HTTPException(404, f"no download of {body.name!r} is in progress; GET /v1/downloads lists them")
    return [_view(progress) for progress in found]


def _view(progress: Progress) -> DownloadView:
    return DownloadView(
        kind=progress.files.repository.kind,
        name=progress.files.name,
        status="downloading",
        bytes=progress.done,
        total_bytes=progress.total,
    )
