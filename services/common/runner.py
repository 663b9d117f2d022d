"""Jobs at work: the threads of a service that do them, and the HTTP face of the protocol (`pmd.services.common.jobs`).

Invariants:
- A job whose work needs what is away (`pmd.services.common.waiting`) waits without a thread, says for what, and begins
  again until that is there: others go on, no number of tries ends it, it can be cancelled, and a restart resumes it.
- A job whose end can't be recorded (a full disk) keeps its thread until it can be; it never stays without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from fastapi import Path as PathParam
from pydantic import BaseModel, ValidationError

from pmd.services.common.app import known_query
from pmd.services.common.jobs import (
    ENDS,
    Cancelled,
    Job,
    JobConflict,
    JobContext,
    JobError,
    JobKind,
    JobStatus,
    JobStore,
    JobSubmission,
    Retryable,
    working_on,
)
from pmd.services.common.strict import explain, nearest
from pmd.services.common.telemetry import JOB_SECONDS, JOBS
from pmd.services.common.waiting import Away, away, delay

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STORE_RETRY_S = 2.0
"""How long a job waits for a store that can't be used before it tries again."""

Key = Annotated[str, PathParam(pattern=r"^[A-Za-z0-9._:@-]{1,200}$", examples=["demo.s0003.rollout.1"])]


TRY_S = 10.0
"""A try that has lasted longer has got what it waited for."""


class _Closing(Exception):
    """The service stops before its store could be used."""


@dataclass
class _Hand:
    """A job that this process has in hand."""

    context: JobContext
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: str | None = None
    since: float = 0.0
    """Unix seconds; of `waiting`."""
    tried: float = 0.0
    """Unix seconds: when the newest try began."""
    timer: threading.Timer | None = None
    """Begins the next try."""

    def waits(self, reason: str) -> float:
        """Note what the job waits for; returns for how long it has."""
        now = time.time()
        if self.waiting is None or (self.tried and now - self.tried > TRY_S):
            self.since = now
        self.waiting = reason
        return max(0.0, now - self.since)

    def seen(self) -> dict[str, Any]:
        """What the job waits for, as its view says it."""
        for reason, since in list(self.context.silent.items()):
            return {"waiting": reason, "waiting_since": since}
        waits = self.waiting is not None and (self.timer is not None or time.time() - self.tried <= TRY_S)
        return {"waiting": self.waiting, "waiting_since": self.since} if waits else {}


def _said(error: Exception) -> str:
    """What an exception says, as JSON can carry it: a file's name in it may be no Unicode."""
    said = str(error) if isinstance(error, Away) else f"{type(error).__name__}: {error}"
    return said.encode(errors="backslashreplace").decode()


class JobRunner:
    """Runs a service's jobs on threads and answers for them over HTTP."""

    def __init__(self, service: str, store: JobStore, kinds: Mapping[str, JobKind[Any]], *, workers: int = 1) -> None:
        self.service = service
        self._store = store
        self._kinds = kinds
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"{service}-job")
        self._hands: dict[str, _Hand] = {}
        self._lock = threading.Lock()
        """Between a job that begins to wait, the timer that ends that, and somebody who cancels it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = threading.Event()

    def recover(self) -> None:
        """Run the jobs that a crash left without an end. Call once the service can work."""
        self._loop = asyncio.get_running_loop()
        for key in self._store.unfinished():
            if key not in self._hands:  # somebody asked for it first
                log.info("job resumed after a restart", extra={"job": key})
                self._enqueue(key)

    def close(self) -> None:
        """Stop taking work; running jobs are left without an end and run again at the next start."""
        self._closing.set()
        for hand in list(self._hands.values()):
            hand.context.cancelled.set()
            if hand.timer is not None:
                hand.timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def validate(self, submission: JobSubmission) -> BaseModel:
        """The typed request of a submission.

        Raises:
            HTTPException: 422 naming the field.
        """
        kind = self._kinds.get(submission.kind)
        if kind is None:
            guess = nearest(submission.kind, self._kinds)
            hint = f"did you mean {guess!r}?" if guess else f"valid: {', '.join(self._kinds)}"
            raise HTTPException(422, [{"field": "kind", "message": f"unknown kind {submission.kind!r}; {hint}"}])
        try:
            request: BaseModel = kind.request.model_validate(submission.request)
        except ValidationError as error:
            fields = explain(error, kind.request)
            raise HTTPException(422, [{**f, "field": f"request.{f['field']}"} for f in fields]) from error
        return request

    def _enqueue(self, key: str) -> None:
        hand = self._hands[key] = _Hand(JobContext(key, threading.Event()))
        self._pool.submit(self._run, key, hand)

    def _run(self, key: str, hand: _Hand) -> None:
        waits = False
        try:
            if self._with_store(hand, lambda: self._store.start(key)):
                waits = self._work(key, hand)
        except _Closing:
            log.warning("job left for the next start", extra={"job": key})
        finally:
            if not waits:
                self._release(key)

    def _work(self, key: str, hand: _Hand) -> bool:
        """Try a job that is marked as running, and record its end; whether it has none, because it waits."""
        name, body = self._with_store(hand, lambda: self._store.submission(key))
        hand.tried, began = time.time(), time.monotonic()
        result: dict[str, Any] | None = None
        error: JobError | None = None
        places = [str(self._store.path.absolute())]
        try:
            kind = self._kinds[name]
            request = kind.request.model_validate(body)
            places = [str(getattr(request, "out", None) or ""), *places]
            hand.context.check()
            with working_on(hand.context):
                result = kind.run(request, hand.context).model_dump(mode="json")
            status = JobStatus.SUCCEEDED
        except Cancelled:
            if self._closing.is_set():
                return False
            status = JobStatus.CANCELLED
        except Exception as exception:  # a handler's failure is the job's end, never the service's
            if (lacking := away(exception, *places)) is not None:
                if self._park(key, hand, lacking):
                    return True
                if self._closing.is_set():
                    return False
                status = JobStatus.CANCELLED
            else:
                status = JobStatus.FAILED
                # Other faults of the system (a right, a missing file) may pass too: a lost mount looks like them.
                again = isinstance(exception, Retryable | OSError)
                error = JobError(message=_said(exception), retryable=again)
                log.exception("job failed", extra={"job": key, "kind": name})
        seconds = time.monotonic() - began
        self._with_store(hand, lambda: self._store.end(key, status, result=result, error=error, seconds=seconds))
        JOBS.labels(self.service, name, status).inc()
        JOB_SECONDS.labels(self.service, name).observe(seconds)
        return False

    def _park(self, key: str, hand: _Hand, lacking: Away) -> bool:
        """Let a job wait without a thread; False when nobody wants it any more."""
        with self._lock:
            if hand.context.cancelled.is_set():
                return False
            reason = _said(lacking)
            if hand.waiting != reason:
                log.warning("job waits", extra={"job": key, "reason": reason})
            waited = hand.waits(reason)
            hand.timer = threading.Timer(delay(waited, lacking.after_s), self._again, (key, hand))
            hand.timer.daemon = True
            hand.timer.start()
            return True

    def _again(self, key: str, hand: _Hand) -> None:
        """The next try of a job that waited."""
        with self._lock:
            hand.timer, hand.tried = None, time.time()
        if not self._closing.is_set():
            with contextlib.suppress(RuntimeError):  # the pool was shut down at this moment
                self._pool.submit(self._run, key, hand)

    def _with_store(self, hand: _Hand, use: Callable[[], Answer]) -> Answer:
        """Use the store, as often as it takes until that works.

        Raises:
            _Closing: when the service stops before; what has no end on disk runs again at the next start.
        """
        while True:
            try:
                return use()
            except sqlite3.Error as error:
                log.warning("the job store can't be used; look after its disk", extra={"reason": str(error)})
                hand.tried = time.time()
                hand.waits(f"the job store {self._store.path.absolute()} can't be used: {error}; look after its disk")
            if self._closing.wait(STORE_RETRY_S):
                raise _Closing

    def _release(self, key: str) -> None:
        """Nobody works on a job any more: let those who wait for it look at it."""
        hand = self._hands.pop(key, None)
        if hand is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(hand.ended.set)

    def submit(self, key: str, submission: JobSubmission) -> tuple[Job, bool]:
        """Start the job of `key`, or return the one that exists.

        Raises:
            HTTPException: 422 for an invalid body, 409 when `key` names other work.
        """
        self.validate(submission)
        try:
            job, created = self._store.submit(key, submission)
        except JobConflict as conflict:
            raise HTTPException(409, str(conflict)) from conflict
        # Not `created` alone: the call that did may have failed before it came to this line.
        if job.status not in ENDS and key not in self._hands:
            self._enqueue(key)
        return job, created

    async def wait(self, key: str, seconds: float) -> Job:
        """The job of `key`, as soon as it has ended or `seconds` have passed.

        Raises:
            HTTPException: 404 when no such job exists.
        """
        hand = self._hands.get(key)
        if hand is not None and seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hand.ended.wait(), seconds)
        job = self._store.get(key)
        if job is None:
            raise HTTPException(404, f"no job {key!r} here")
        hand = self._hands.get(key)
        return job if hand is None or job.status in ENDS else job.model_copy(update=hand.seen())

    def cancel(self, key: str) -> None:
        """Ask a job to end; one that is queued or waits ends at once, a running one at its next check."""
        job = self._store.get(key)
        if job is None:
            raise HTTPException(404, f"no job {key!r} here")
        with self._lock:
            hand = self._hands.get(key)
            if hand is not None:
                hand.context.cancelled.set()
            timer = hand.timer if hand is not None else None
        if job.status is JobStatus.QUEUED or hand is None or timer is not None:
            self._store.end(key, JobStatus.CANCELLED)
            if timer is not None:
                timer.cancel()
            self._release(key)

    def router(self) -> APIRouter:
        """The HTTP face of the protocol."""
        router = APIRouter(tags=["jobs"], dependencies=[Depends(known_query)])

        @router.put("/v1/jobs/{key}", responses={201: {"model": Job}, 409: {"description": "key names other work"}})
        async def put_job(key: Key, submission: JobSubmission, response: Response) -> Job:
            """Start a job. The same key and body returns the same job; another body is 409."""
            self._loop = asyncio.get_running_loop()
            job, created = self.submit(key, submission)
            response.status_code = 201 if created else 200
            return job

        @router.get("/v1/jobs/{key}", responses={404: {"description": "no such job"}})
        async def get_job(key: Key, wait: Annotated[float, Query(ge=0, le=60)] = 0) -> Job:
            """A job, after at most `wait` seconds or as soon as it ends."""
            return await self.wait(key, wait)

        @router.delete("/v1/jobs/{key}", responses={404: {"description": "no such job"}})
        async def delete_job(key: Key) -> Job:
            """Cancel a job. Ended jobs keep their end."""
            self.cancel(key)
            return await self.wait(key, 0)

        return router
