"""Deleting a run over REST: what services keep for it, its memory, its files, and at last its rows.

Invariants:
- A run that may go on is not deleted by a slip. Nothing is removed while a service may still write for it.
- Whatever is interrupted is finished by the same request, which may come while the first one still works; of a run that
  is deleted there is nothing left to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Annotated

import fsspec
from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Query, Response

from pmd.gateway.api import examples
from pmd.gateway.api.deps import Parts, RunId, TheParts
from pmd.gateway.loop.state import Service
from pmd.gateway.registry import deletion
from pmd.gateway.registry.registry import UnknownRun
from pmd.gateway.registry.status import DELETE, ENDED
from pmd.gateway.views import RunStatus
from pmd.services.common.app import known_query
from pmd.services.common.artifacts import MANIFEST
from pmd.services.common.requests import MemoryCounts
from pmd.services.common.strict import Strict

KEEPERS = (Service.ROLLOUT, Service.TRAINER)
"""Services that keep something for a run on disks of their own."""
WEIGHTS = "/weights/"

routes = APIRouter(dependencies=[Depends(known_query)], tags=["runs"])


class Deletion(Strict):
    """What the deletion of a run removes, or has removed."""

    run: str
    done: bool
    waiting: str | None = None
    """What has to end before anything is removed; the same request again goes on."""
    memory: dict[str, int] = {}
    """Items by level."""
    versions: int = 0
    """Policy versions whose weights go."""
    files: int = 0
    bytes: int = 0
    """What that frees, without files that another run holds too and without what the trainer keeps for a run that may
    go on; of a deletion that is done, with it."""


@routes.delete("/v1/runs/{run}", responses=examples.DELETE)
async def delete_run(
    run: RunId,
    parts: TheParts,
    response: Response,
    later: BackgroundTasks,
    dry_run: Annotated[bool, Query(description="Only say what would be removed.")] = False,
    force: Annotated[bool, Query(description="Cancel it first, if it has not ended.")] = False,
) -> Deletion:
    """Delete a run: its record, its artifacts, its weights and its memory. It can't be undone.

    202 while something must end first: ask again. Whatever interrupts a deletion, asking again finishes it.
    """
    try:
        return await _delete(parts, run, response, later, dry_run=dry_run, force=force)
    except UnknownRun:  # also in the midst of it: another request has finished it
        if await parts.reading.run(lambda: deletion.is_deleted(parts.registry, run)):
            return Deletion(run=run, done=True)
        raise


async def _delete(
    parts: Parts, run: str, response: Response, later: BackgroundTasks, *, dry_run: bool, force: bool
) -> Deletion:
    row = await parts.reading.run(lambda: parts.registry.run(run))
    status, root = RunStatus(row["status"]), str(json.loads(row["inputs"])["root"])
    if status not in ENDED and not force:
        raise HTTPException(409, f"run {run!r} is {status}; cancel it first, or set force=true")
    found = await _found(parts, run, root)
    if dry_run:
        return found
    if row["desired"] != DELETE and (waiting := await parts.reading.run(lambda: _stop(parts, run, status))):
        later.add_task(parts.wake, run)
        response.status_code = 202
        return found.model_copy(update={"waiting": waiting})
    freed = found.bytes
    for service in KEEPERS:
        answer = _accepted(service, await parts.services.delete(service, f"/v1/runs/{run}"))
        freed += int(json.loads(bytes(answer.body)).get("bytes", 0))
    _accepted(Service.MEMORY, await parts.services.delete("memory", f"/v1/banks/{run}", {"If-Match": "*"}))
    await parts.reading.run(lambda: _remove(root, run))
    await parts.reading.run(lambda: deletion.finish(parts.registry, run, time.time()))
    return found.model_copy(update={"done": True, "bytes": freed})


def _stop(parts: Parts, run: str, status: RunStatus) -> str:
    """Mark a run, or say what has to end before."""
    if status not in ENDED:
        parts.registry.ask(run, "cancel")
        return "the run is being cancelled"
    try:
        deletion.mark(parts.registry, run)
    except deletion.StillHeld as held:
        return str(held)
    return ""


async def _found(parts: Parts, run: str, root: str) -> Deletion:
    """What is there of a run."""
    used = await parts.reading.run(lambda: _files(root))
    answer = await parts.services.get("memory", f"/v1/banks/{run}")
    counts: dict[str, int] = {}
    if answer.status_code == 200:
        kept = MemoryCounts.model_validate_json(bytes(answer.body))
        counts = {"experience": kept.experience, "insight": kept.insight, "behavior": kept.behavior}
    elif answer.status_code != 404:
        _accepted(Service.MEMORY, answer)
    versions = sum(WEIGHTS in name and name.endswith(f"/{MANIFEST}") for name in used)
    return Deletion(run=run, done=False, memory=counts, versions=versions, files=len(used), bytes=sum(used.values()))


def _accepted(service: str, answer: Response) -> Response:
    """`answer`, unless a service refused: what is not there is removed."""
    if answer.status_code >= 400 and answer.status_code != 404:
        try:
            title = json.loads(bytes(answer.body))["title"]
        except (ValueError, LookupError, TypeError):
            title = f"HTTP {answer.status_code}"
        raise HTTPException(503, f"not deleted yet, ask again: the {service} service: {title}")
    return answer


def _files(root: str) -> dict[str, int]:
    """The files below `root`, each with the bytes that its removal frees."""
    fs, path = fsspec.core.url_to_fs(root)
    if "file" not in fs.protocol:
        return {name: int(about["size"] or 0) for name, about in fs.find(path, detail=True).items()}
    used = {}
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it is being removed
                stat = (Path(folder) / name).lstat()
                used[f"{folder}/{name}"] = stat.st_size if stat.st_nlink == 1 else 0
    return used


def _remove(root: str, run: str) -> None:
    """Remove all files of a run.

    Raises:
        HTTPException: `root` is no folder of the run, so nothing is.
    """
    fs, path = fsspec.core.url_to_fs(root)
    if path.rstrip("/").rpartition("/")[2] != run:
        raise HTTPException(
            409, f"the files of run {run!r} are at {root}, which is not its folder: remove them yourself"
        )
    while fs.exists(path):
        with contextlib.suppress(FileNotFoundError):  # another request removes them too
            fs.rm(path, recursive=True)
