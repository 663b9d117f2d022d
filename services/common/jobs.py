"""The job protocol that all services share: long work as idempotent, durable, cancellable jobs.

`PUT /v1/jobs/{key}` starts a job, `GET /v1/jobs/{key}?wait=20` waits for it, `DELETE` cancels it.

Invariants:
- A key names one piece of work for ever: the same key and body returns the same job, another body is 409.
- A job is on disk before its PUT is answered. After a crash, jobs without an end are run again, by this process or
  another replica (`pmd.services.common.jobstore`), so handlers must be idempotent: they publish by rename or in one
  transaction, and doing them twice is doing them once.
- An end (succeeded, failed, cancelled) is final.
- A failure says whether repeating the same work could help (`retryable`); the caller repeats under a new key.
- A job whose work needs what is away (`pmd.services.common.waiting`) has not failed: it stays `running`, says what it
  waits for, and begins again by itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

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


class HandedOver(Cancelled):
    """Raised by `JobContext.check` when the job goes on without this process: it stops, or its lease has lapsed. What
    runs elsewhere for the job is not to be ended."""


@dataclass
class JobContext:
    """What a handler knows about the job it runs."""

    key: str
    cancelled: threading.Event
    kept: dict[str, Any] = field(default_factory=dict)
    """What earlier tries of this job have made; gone with the process."""
    silent: dict[str, float] = field(default_factory=dict)
    """Servers that the job has asked and that give no sign of life (`pmd.services.common.alive`): Unix seconds since
    when, by reason."""

    lease_until: float = math.inf
    """When this process may not work on the job any more, because another one may; by the monotonic clock."""

    @property
    def lapsed(self) -> bool:
        """Whether another process may work on the job."""
        return time.monotonic() > self.lease_until

    stopping: bool = False
    """This process stops; the job begins again at the next start, or in another one."""

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once however often this job has to wait and begins again."""
        if name not in self.kept:
            self.kept[name] = make()
        made: Made = self.kept[name]
        return made

    def check(self) -> None:
        """Call between units of work.

        Raises:
            HandedOver: when this process stops, or has lost the job to another one.
            Cancelled: when somebody has cancelled the job.
        """
        if self.stopping or self.lapsed:
            raise HandedOver
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
