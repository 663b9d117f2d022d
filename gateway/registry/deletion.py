"""Deleting a run from the registry: it is marked first, and its rows go last.

Invariants:
- Between the mark and the end lies the removal of all that is elsewhere: who is killed in between finds the run marked,
  and does the rest again.
- Only a run is marked that has ended and owes services nothing: nobody writes for it any more. One that is marked is
  never resumed.
- An id is never given again: services remember jobs by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update

from pmd.gateway.registry.registry import Registry, UnknownRun
from pmd.gateway.registry.status import DELETE, ENDED, ForbiddenTransition
from pmd.gateway.registry.tables import ALARMS, ARTIFACTS, DELETED, EVENTS, PHASES, RELEASES, RUNS
from pmd.gateway.views import RunStatus

PARTS = (PHASES, EVENTS, ALARMS, ARTIFACTS, RELEASES)
"""Everything that refers to a run."""


def mark(registry: Registry, run: str) -> None:
    """Note that a run is being deleted; noting it again changes nothing.

    Raises:
        UnknownRun: there is none.
        ForbiddenTransition: it has not ended.
        StillHeld: services have not freed what they hold for it, or a job of it still works.
    """
    with registry.database.write() as db:
        row = db.execute(select(RUNS.c.status, RUNS.c.desired).where(RUNS.c.id == run).with_for_update()).first()
        if row is None:
            raise UnknownRun(run)
        if row.desired == DELETE:
            return
        if RunStatus(row.status) not in ENDED:
            raise ForbiddenTransition(run, RunStatus(row.status))
        registry.abandon(db, run, "the run is being deleted")  # of a run that ended before an end counted its jobs in
        holders = db.scalars(select(RELEASES.c.service).where(RELEASES.c.run_id == run).distinct()).all()
        if not holders:
            db.execute(update(RUNS).where(RUNS.c.id == run).values(desired=DELETE))
    if holders:  # after the transaction: what is owed is noted
        raise StillHeld(holders)


class StillHeld(RuntimeError):
    """Services hold something for a run that has ended; they are told to free it until they answer."""

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__(f"what holds something for the run has to free it first: {', '.join(sorted(services))}")


def finish(registry: Registry, run: str, now: float) -> None:
    """Remove the rows of a run that is marked, and keep its id from being given again.

    Raises:
        UnknownRun: there is none.
        ForbiddenTransition: it is not marked; nothing was removed.
    """
    with registry.database.write() as db:
        row = db.execute(select(RUNS.c.status, RUNS.c.desired).where(RUNS.c.id == run).with_for_update()).first()
        if row is None:
            raise UnknownRun(run)
        if row.desired != DELETE:
            raise ForbiddenTransition(run, RunStatus(row.status))
        for table in PARTS:
            db.execute(delete(table).where(table.c.run_id == run))
        db.execute(delete(RUNS).where(RUNS.c.id == run))
        db.execute(insert(DELETED).values(run_id=run, at=now))


def is_deleted(registry: Registry, run: str) -> bool:
    """Whether there was such a run."""
    with registry.database.read() as db:
        return db.execute(select(DELETED.c.run_id).where(DELETED.c.run_id == run)).first() is not None
