"""The job protocol that all services share: long work as idempotent, durable, cancellable jobs.

`PUT /v1/jobs/{key}` starts a job, `GET /v1/jobs/{key}?wait=20` waits for it, `DELETE` cancels it.

Invariants:
- A key names one piece of work for ever: the same key and body returns the same job, another body is 409.
- A job is on disk before its PUT is answered. After a crash, jobs without an end are run again, so handlers
  must be idempotent: they publish by rename or in one transaction, and doing them twice is doing them once.
- An end (succeeded, failed, cancelled) is final.
- A failure says whether repeating the same work could help (`retryable`); the caller repeats under a new key.
- A job whose work needs what is away (`pmd.services.common.waiting`) has not failed: it stays `running`, says what it
  waits for, and begins again by itself.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from pmd.services.common.store import Store
from pmd.services.common.strict import Strict

Request = TypeVar("Request", bound=BaseModel)
Made = TypeVar("Made")


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobError(Strict):
    """Why a job failed, and whether repeating it could help."""

    message: str
    retryable: bool


class JobSubmission(Strict):
    """What a PUT carries."""

    kind: str
    request: dict[str, Any]


class Job(Strict):
    """What a GET or PUT answers."""

    key: str
    kind: str
    status: JobStatus
    result: dict[str, Any] | None = None
    error: JobError | None = None
    waiting: str | None = None
    """What a running job waits for, and why: a service, a server or a storage that is away, starting or full."""
    waiting_since: float | None = None
    """Unix seconds."""
    created: float
    """Unix seconds."""
    seconds: float | None = None
    """Running time of an ended job."""


class Retryable(RuntimeError):
    """Raised by a handler whose work was tried and failed, and may succeed when it is tried again (a child was killed).

    What could not even be tried, because something that it needs is away, is `pmd.services.common.waiting.Away`.
    """


class Cancelled(RuntimeError):
    """Raised by `JobContext.check` when the job was cancelled."""


@dataclass(frozen=True)
class JobContext:
    """What a handler knows about the job it runs."""

    key: str
    cancelled: threading.Event
    kept: dict[str, Any] = field(default_factory=dict)
    """What earlier tries of this job have made; gone with the process."""
    silent: dict[str, float] = field(default_factory=dict)
    """Servers that the job has asked and that give no sign of life (`pmd.services.common.alive`): Unix seconds since
    when, by reason."""

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once however often this job has to wait and begins again."""
        if name not in self.kept:
            self.kept[name] = make()
        made: Made = self.kept[name]
        return made

    def check(self) -> None:
        """Call between units of work.

        Raises:
            Cancelled: when somebody has cancelled the job.
        """
        if self.cancelled.is_set():
            raise Cancelled


_CURRENT: ContextVar[JobContext | None] = ContextVar("job", default=None)


def current_job() -> JobContext | None:
    """The job that this thread works on; None outside of jobs."""
    return _CURRENT.get()


@contextmanager
def working_on(job: JobContext) -> Iterator[None]:
    """Make `job` the one that this thread works on."""
    mark = _CURRENT.set(job)
    try:
        yield
    finally:
        _CURRENT.reset(mark)


@dataclass(frozen=True)
class JobKind(Generic[Request]):
    """A kind of job: what it takes and the idempotent function that does it."""

    request: type[Request]
    run: Callable[[Request, JobContext], BaseModel]


class JobConflict(ValueError):
    """The key already names other work."""


class JobStore:
    """Jobs of one service on disk (SQLite): safe to kill at any moment, shared by threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = Store(
            path,
            "CREATE TABLE IF NOT EXISTS jobs(key TEXT PRIMARY KEY, kind TEXT, body_hash TEXT, request TEXT,"
            " status TEXT, result TEXT, error TEXT, created REAL, seconds REAL);",
        )

    def submit(self, key: str, submission: JobSubmission) -> tuple[Job, bool]:
        """The job of `key`, and whether this call created it.

        Raises:
            JobConflict: when `key` names a job with another body.
        """
        # Not `model_dump`, which gives up on what is nested deeper than 255; a request came as JSON.
        body = json.dumps({"kind": submission.kind, "request": submission.request}, sort_keys=True)
        digest = hashlib.sha256(body.encode()).hexdigest()
        created = self._store.change(
            "INSERT INTO jobs VALUES(?,?,?,?,?,NULL,NULL,?,NULL) ON CONFLICT(key) DO NOTHING",
            *(key, submission.kind, digest, json.dumps(submission.request), JobStatus.QUEUED, time.time()),
        )
        ((known,),) = self._store.rows("SELECT body_hash FROM jobs WHERE key=?", key)
        if known != digest:
            raise JobConflict(f"job {key!r} exists with another body; use a new key for new work")
        job = self.get(key)
        assert job is not None  # noqa: S101 -- inserted above, jobs are never deleted
        return job, bool(created)

    def get(self, key: str) -> Job | None:
        """The job of `key`, or None."""
        row = self._store.row("SELECT key, kind, status, result, error, created, seconds FROM jobs WHERE key=?", key)
        if row is None:
            return None
        return Job(
            key=row[0],
            kind=row[1],
            status=row[2],
            result=json.loads(row[3]) if row[3] else None,
            error=json.loads(row[4]) if row[4] else None,
            created=row[5],
            seconds=row[6],
        )

    def submission(self, key: str) -> tuple[str, dict[str, Any]]:
        """Kind and request that `key` was submitted with."""
        ((kind, request),) = self._store.rows("SELECT kind, request FROM jobs WHERE key=?", key)
        return kind, json.loads(request)

    def start(self, key: str) -> bool:
        """Mark a job as running; False when it has ended meanwhile."""
        marks = ",".join("?" * len(ENDS))
        statement = f"UPDATE jobs SET status=? WHERE key=? AND status NOT IN ({marks})"  # noqa: S608
        return bool(self._store.change(statement, JobStatus.RUNNING, key, *ENDS))

    def end(
        self,
        key: str,
        status: JobStatus,
        *,
        result: dict[str, Any] | None = None,
        error: JobError | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Record the end of a job; an end that is already recorded stays."""
        marks = ",".join("?" * len(ENDS))
        self._store.change(
            f"UPDATE jobs SET status=?, result=?, error=?, seconds=? WHERE key=? AND status NOT IN ({marks})",  # noqa: S608
            status,
            json.dumps(result) if result is not None else None,
            error.model_dump_json() if error else None,
            seconds,
            key,
            *ENDS,
        )

    def unfinished(self) -> list[str]:
        """Keys without an end, oldest first: what a restarted service must run again."""
        query = "SELECT key FROM jobs WHERE status IN (?,?) ORDER BY created"
        return [key for (key,) in self._store.rows(query, JobStatus.QUEUED, JobStatus.RUNNING)]
