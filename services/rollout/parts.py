"""Rollouts of jobs that have not ended, on disk as they are drawn: a restart draws only what is missing.

Invariant: what is kept of a job is whole rows by their place in it, each written once; they go when its artifact is
written. Those of a job that was cancelled or has failed go at the next start.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pmd.services.common.store import Store
from pmd.services.rollout.completion import Completion


class Parts:
    """The drawn rows of unfinished jobs (SQLite, shared by threads)."""

    def __init__(self, path: Path) -> None:
        self._store = Store(
            path,
            "CREATE TABLE IF NOT EXISTS parts(job TEXT, row INTEGER, completion TEXT, PRIMARY KEY(job, row))"
            " WITHOUT ROWID;",
        )

    def of(self, job: str) -> dict[int, Completion]:
        """What is kept of a job, by row."""
        rows = self._store.rows("SELECT row, completion FROM parts WHERE job=? ORDER BY row", job)
        return {row: Completion(**json.loads(text)) for row, text in rows}

    def keep(self, job: str, drawn: Mapping[int, Completion]) -> None:
        """Keep rows of a job; one transaction."""
        rows = [(job, row, json.dumps(dataclasses.asdict(made))) for row, made in drawn.items()]
        with self._store.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO parts VALUES(?,?,?)", rows)

    def drop(self, job: str) -> None:
        """Forget a job that needs its rows no more."""
        self._store.change("DELETE FROM parts WHERE job=?", job)

    def drop_others(self, jobs: Collection[str]) -> None:
        """Forget all jobs but these."""
        for (job,) in self._store.rows("SELECT DISTINCT job FROM parts"):
            if job not in jobs:
                self.drop(job)
