"""Jobs of a service in SQL: a file of its own (SQLite), or a Postgres that its replicas share.

Invariants:
- A job has at most one owner: whoever claims it holds a lease, and works on it only while it can renew that. A claim
  raises the job's epoch, and an end is recorded only for the epoch that is in force: of an owner that was taken for
  dead and comes back, nothing is recorded.
- Of a file there is one owner, the process that has opened it: what a predecessor has left is its own at once. On
  Postgres the lease of a process that was killed lapses after `LEASE_S`; one that stops gives its leases back.
- Leases go by the clock of the database.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pmd.services.common.jobs import ENDS, Job, JobConflict, JobError, JobStatus, JobSubmission
from pmd.services.common.sql import Database

LEASE_S = 30.0
"""How long a job stays with an owner that gives no sign of life."""
LOCK = 0x504D444A  # "PMDJ"

_METADATA = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    _METADATA,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body_hash", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("owner", sa.Text),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Column("waiting", sa.Text),
    sa.Column("waiting_since", sa.Double),
)
_OF_THE_FIRST_RELEASE = ("key", "kind", "body_hash", "request", "status", "result", "error", "created", "seconds")

_OPEN = JOBS.c.status.not_in(ENDS)
_FREE: dict[str, Any] = {"owner": None, "lease_until": 0.0, "waiting": None, "waiting_since": None}


class Held(NamedTuple):
    """A job that this process owns, when it renews its leases."""

    epoch: int
    waiting: str | None
    waiting_since: float | None
    """Unix seconds."""


class JobStore:
    """The jobs of one service; thread-safe."""

    def __init__(self, service: str, url: str) -> None:
        """Open the database at `url`, or wait for it in the background.

        Args:
            service: whose jobs these are: several services may share a database.
        """
        self._service = service
        self._database = Database(url, self._prepare, lock=LOCK)
        self.shared = self._database.dialect != "sqlite"
        """Whether other processes may own jobs."""
        self.place = "" if self.shared else self._database.name
        """Path of the file, where it is one."""
        self._owner = uuid.uuid4().hex
        self._insert = postgresql.insert if self.shared else sqlite.insert

    def _prepare(self, db: sa.Connection) -> None:
        found = sa.inspect(db)
        file = db.dialect.name == "sqlite"  # on a server there were none then
        old = file and found.has_table("jobs") and found.get_columns("jobs")[0]["name"] != "service"
        if old:
            db.execute(sa.text("ALTER TABLE jobs RENAME TO jobs_of_the_first_release"))
        _METADATA.create_all(db)
        if old:
            before = sa.table("jobs_of_the_first_release", *(sa.column(name) for name in _OF_THE_FIRST_RELEASE))
            kept = sa.select(sa.literal(self._service), *before.c, sa.literal(0), sa.literal(0.0), sa.false())
            names = ("service", *_OF_THE_FIRST_RELEASE, "epoch", "lease_until", "cancelled")
            db.execute(sa.insert(JOBS).from_select(names, kept))
            db.execute(sa.text("DROP TABLE jobs_of_the_first_release"))

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _now(self) -> Any:
        if self.shared:
            return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return sa.literal(time.time())

    def _of(self, key: str) -> Any:
        return sa.and_(JOBS.c.service == self._service, JOBS.c.key == key)

    def _unowned(self) -> Any:
        """Whether nobody owns a job, or nobody who lives."""
        others = sa.or_(JOBS.c.owner.is_(None), JOBS.c.lease_until < self._now())
        return others if self.shared else sa.or_(others, JOBS.c.owner != self._owner)

    # ------------------------------------------------------------ by request

    def submit(self, key: str, submission: JobSubmission) -> tuple[Job, bool]:
        """The job of `key`, and whether this call created it.

        Raises:
            JobConflict: when `key` names a job with another body.
        """
        # Not `model_dump`, which gives up on what is nested deeper than 255; a request came as JSON.
        body = json.dumps({"kind": submission.kind, "request": submission.request}, sort_keys=True)
        row = {
            "service": self._service,
            "key": key,
            "kind": submission.kind,
            "body_hash": hashlib.sha256(body.encode()).hexdigest(),
            "request": json.dumps(submission.request),
            "status": JobStatus.QUEUED,
            "created": time.time(),
            "epoch": 0,
            "lease_until": 0.0,
            "cancelled": False,
        }
        with self._database.write() as db:
            made = self._insert(JOBS).values(row).on_conflict_do_nothing().returning(JOBS.c.key)
            created = db.execute(made).first() is not None
            known = db.scalar(sa.select(JOBS.c.body_hash).where(self._of(key)))
        if known != row["body_hash"]:
            raise JobConflict(f"job {key!r} exists with another body; use a new key for new work")
        job = self.get(key)
        if job is None:
            raise LookupError(f"job {key!r} was deleted from the database at this moment")
        return job, created

    def get(self, key: str) -> Job | None:
        """The job of `key`."""
        with self._database.read() as db:
            row = db.execute(sa.select(JOBS).where(self._of(key))).mappings().first()
        if row is None:
            return None
        return Job(
            key=key,
            kind=row["kind"],
            status=row["status"],
            result=json.loads(row["result"]) if row["result"] else None,
            error=json.loads(row["error"]) if row["error"] else None,
            waiting=row["waiting"],
            waiting_since=row["waiting_since"],
            created=row["created"],
            seconds=row["seconds"],
        )

    def submission(self, key: str) -> tuple[str, dict[str, Any]]:
        """Kind and request that `key` was submitted with."""
        with self._database.read() as db:
            kind, request = db.execute(sa.select(JOBS.c.kind, JOBS.c.request).where(self._of(key))).one()
        return kind, json.loads(request)

    def cancel(self, key: str) -> None:
        """End a job that nobody works on; the owner of another one learns of it when it renews its lease."""
        with self._database.write() as db:
            ended = db.execute(
                sa.update(JOBS)
                .where(self._of(key), _OPEN, self._unowned())
                .values(status=JobStatus.CANCELLED, seconds=0.0, **_FREE)
            ).rowcount
            if not ended:
                db.execute(sa.update(JOBS).where(self._of(key), _OPEN).values(cancelled=True))

    # ------------------------------------------------------------ by owners

    def claim(self, key: str) -> int | None:
        """Own a job that this process owns already, or nobody does: its epoch. None when it has another owner or has
        ended."""
        mine = sa.or_(JOBS.c.owner == self._owner, self._unowned())
        with self._database.write() as db:
            epoch: int | None = db.scalar(
                sa.update(JOBS)
                .where(self._of(key), _OPEN, ~JOBS.c.cancelled, mine)
                .values(
                    status=JobStatus.RUNNING,
                    owner=self._owner,
                    epoch=JOBS.c.epoch + 1,
                    lease_until=self._now() + LEASE_S,
                )
                .returning(JOBS.c.epoch)
            )
        return epoch

    def renew(self, held: Mapping[str, Held]) -> dict[str, bool]:
        """Keep the leases of the jobs that this process owns, and note what they wait for.

        Returns:
            The keys of those that it still owns, and whether somebody wants each to be cancelled.
        """
        kept = {}
        with self._database.write() as db:
            for key in sorted(held):
                lease = held[key]
                wanted = db.execute(
                    sa.update(JOBS)
                    .where(self._of(key), _OPEN, JOBS.c.epoch == lease.epoch, JOBS.c.owner == self._owner)
                    .values(lease_until=self._now() + LEASE_S, waiting=lease.waiting, waiting_since=lease.waiting_since)
                    .returning(JOBS.c.cancelled)
                ).first()
                if wanted is not None:
                    kept[key] = bool(wanted.cancelled)
        return kept

    def release(self, key: str, epoch: int) -> None:
        """Give back a job without an end: anybody may claim it from now on."""
        with self._database.write() as db:
            db.execute(sa.update(JOBS).where(self._of(key), _OPEN, JOBS.c.epoch == epoch).values(_FREE))

    def end(
        self,
        key: str,
        epoch: int,
        status: JobStatus,
        *,
        result: dict[str, Any] | None = None,
        error: JobError | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Record the end of a job; an end that is already recorded stays.

        Returns:
            False when that was not for the owner of `epoch` to do.
        """
        with self._database.write() as db:
            return bool(
                db.execute(
                    sa.update(JOBS)
                    .where(self._of(key), _OPEN, JOBS.c.epoch == epoch)
                    .values(
                        status=status,
                        result=json.dumps(result) if result is not None else None,
                        error=error.model_dump_json() if error else None,
                        seconds=seconds,
                        **_FREE,
                    )
                ).rowcount
            )

    def unowned(self, limit: int | None = None) -> list[str]:
        """Keys of jobs without an end that nobody works on, oldest first: what a service must run, again perhaps.

        Those that somebody has cancelled end here.
        """
        mine = sa.and_(JOBS.c.service == self._service, _OPEN, self._unowned())
        cancelled = sa.update(JOBS).where(mine, JOBS.c.cancelled)
        wanted = sa.select(JOBS.c.key).where(mine).order_by(JOBS.c.created, JOBS.c.key).limit(limit)
        with self._database.write() as db:
            db.execute(cancelled.values(status=JobStatus.CANCELLED, seconds=0.0, **_FREE))
            return list(db.scalars(wanted))
