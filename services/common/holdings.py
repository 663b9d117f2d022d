"""What a service holds for a run, and the routes by which it is told that the run starts, ends, and is deleted.

Invariants:
- Two are hints about memory, never about data: what is released is loaded again when somebody needs it, and what was
  not prepared is loaded when it is needed first. So both may be sent twice, late, or not at all.
- The third removes data, for good: it is sent for a run that has ended and is released, and may be sent again.
- Work in progress is not disturbed: a job ends by its own DELETE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from fastapi import Path as PathParam

from pmd.services.common.app import known_query
from pmd.services.common.waiting import Away
from pmd.services.common.wire import Slug

Run = Annotated[Slug, PathParam(examples=["demo-1a2b3c4d"])]


def holdings(
    *,
    release: Callable[[str], None],
    prepare: Callable[[str], None] | None = None,
    forget: Callable[[str], int] | None = None,
) -> APIRouter:
    """The routes of a service that holds something for a run.

    Args:
        release: frees it.
        prepare: begins to load it, without waiting; None where that takes no time.
        forget: removes what the service keeps on disk for a run that is deleted, and says how many bytes that freed;
            raises `Away` while something still works on it. None where nothing is kept.
    """
    router = APIRouter(tags=["runs"], dependencies=[Depends(known_query)])

    @router.put("/v1/runs/{run}/release")
    def release_run(run: Run) -> dict[str, str]:
        """Free the memory that is held for a run that has ended or pauses. Nothing is lost."""
        release(run)
        return {"run": run}

    if prepare is not None:

        @router.put("/v1/runs/{run}/prepare")
        def prepare_run(run: Run) -> dict[str, str]:
            """Begin to load what a run that starts will need. Nothing is waited for."""
            prepare(run)
            return {"run": run}

    if forget is not None:

        @router.delete("/v1/runs/{run}", responses={503: {"description": "something still works on the run"}})
        def forget_run(run: Run) -> dict[str, str | int]:
            """Remove what is kept on disk for a run that is deleted. Of an unknown run there is nothing to remove."""
            try:
                return {"run": run, "bytes": forget(run)}
            except Away as error:
                raise HTTPException(503, str(error)) from error

    return router
