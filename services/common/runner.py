"""Jobs at work: the threads of a service that do them, and the HTTP face of the protocol (`pmd.services.common.jobs`).

Invariants:
- A job whose work needs what is away (`pmd.services.common.waiting`) waits without a thread, says for what, and begins
  again until that is there: others go on, no number of tries ends it, it can be cancelled, and a restart resumes it.
- A job whose end can't be recorded (a full disk) keeps its thread until it can be; it never stays without one.
- Of a store that replicas share, a job is worked on only while this process can renew its lease: work whose lease has
  lapsed is broken off at its next check, and leaves no end. Whoever has a thread to spare takes what nobody owns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from fastapi import Path as PathParam
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from pmd.services.common.app import known_query
from pmd.services.common.jobs import (
    ENDS,
    Cancelled,
    HandedOver,
    Job,
    JobConflict,
    JobContext,
    JobError,
    JobKind,
    JobStatus,
    JobSubmission,
    Retryable,
    working_on,
)
from pmd.services.common.jobstore import LEASE_S, Held, JobStore
from pmd.services.common.strict import explain, nearest
from pmd.services.common.telemetry import JOB_SECONDS, JOBS
from pmd.services.common.waiting import Away, away, delay

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STORE_RETRY_S = 2.0
"""How long a job waits for a store that can't be used before it tries again."""

RENEW_S = 5.0
"""How often leases are renewed, and jobs without an owner looked for."""
SAFE = 0.9
"""Share of its lease that a job is worked on for, without a renewal: clocks differ a little."""
LOOK_S = 0.5
"""How often a job that another replica works on is looked at for whoever waits for its end."""

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
    epoch: int | None = None
    """Of its lease; None while it has none."""

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
    return said.encode(errors="backslashreplace").decode().replace("\x00", "\\x00")


class JobRunner:
    """Runs a service's jobs on threads and answers for them over HTTP."""

    def __init__(self, service: str, store: JobStore, kinds: Mapping[str, JobKind[Any]], *, workers: int = 1) -> None:
        self.service = service
        self._workers = workers
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
        if not self._store.shared:
            try:
                self._adopt()
            except SQLAlchemyError as error:
                log.warning("the job store can't be used", extra={"reason": str(error)})
            else:
                return
        threading.Thread(target=self._tend, name=f"{self.service}-leases", daemon=True).start()

    def close(self) -> None:
        """Stop taking work; running jobs are left without an end and run again at the next start, or elsewhere."""
        self._closing.set()
        reached = True
        for key, hand in list(self._hands.items()):
            hand.context.stopping = True
            hand.context.cancelled.set()
            with self._lock:
                timer, hand.timer = hand.timer, None
            if timer is not None:
                timer.cancel()
                reached = reached and self._give_back(key, hand)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _tend(self) -> None:
        """Take the jobs that nobody works on: those of a predecessor once, and those of replicas for ever. Keep the
        leases of those in hand, also while the last of them end."""
        while True:
            try:
                if self._store.shared:
                    self._renew()
                if not self._closing.is_set():
                    self._adopt()
                    if not self._store.shared:
                        return
            except Exception as error:  # whatever it is, without this thread all leases lapse
                log.warning("the job store can't be used", extra={"reason": str(error)})
            if self._closing.wait(RENEW_S):
                if not any(hand.epoch is not None for hand in list(self._hands.values())):
                    return
                time.sleep(RENEW_S)

    def _renew(self) -> None:
        began = time.monotonic()
        hands = dict(self._hands)
        leases = {}
        for key, hand in hands.items():
            if hand.epoch is not None:
                seen = hand.seen()
                leases[key] = Held(hand.epoch, seen.get("waiting"), seen.get("waiting_since"))
        kept = self._store.renew(leases)
        for key, lease in leases.items():
            if hands[key].epoch != lease.epoch:
                continue  # it has ended meanwhile, or begun again
            if key not in kept:
                log.warning("job broken off: its lease has lapsed", extra={"job": key})
                hands[key].context.lease_until = 0.0
            else:
                hands[key].context.lease_until = began + LEASE_S * SAFE
                if kept[key]:
                    self.cancel(key)

    def _adopt(self) -> None:
        """Take jobs that nobody owns: of a shared store as many as there are threads to spare."""
        spare = None
        if self._store.shared:
            spare = self._workers - sum(hand.timer is None for hand in list(self._hands.values()))
            if spare <= 0:
                return
        for key in self._store.unowned(spare):
            if key not in self._hands:  # somebody asked for it first
                log.info("job taken up that nobody works on", extra={"job": key})
                self._enqueue(key)

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
        with self._lock:
            if key in self._hands:
                return
            hand = self._hands[key] = _Hand(JobContext(key, threading.Event()))
        with contextlib.suppress(RuntimeError):  # the pool was shut down at this moment
            self._pool.submit(self._run, key, hand)

    def _run(self, key: str, hand: _Hand) -> None:
        waits = False
        try:
            hand.epoch = self._with_store(hand, lambda: self._claim(key, hand))
            if hand.epoch is not None:
                waits = self._work(key, hand, hand.epoch)
        except _Closing:
            log.warning("job left for the next start", extra={"job": key})
        finally:
            if not waits:
                if self._closing.is_set():
                    self._give_back(key, hand)
                self._release(key)

    def _claim(self, key: str, hand: _Hand) -> int | None:
        began = time.monotonic()
        epoch = self._store.claim(key)
        if self._store.shared:
            hand.context.lease_until = began + LEASE_S * SAFE
        return epoch

    def _give_back(self, key: str, hand: _Hand) -> bool:
        """Let another replica work on a job without an end; False when the store can't be used, so its lease lapses."""
        if self._store.shared and hand.epoch is not None:
            try:
                self._store.release(key, hand.epoch)
            except SQLAlchemyError:
                return False
        hand.epoch = None
        return True

    def _work(self, key: str, hand: _Hand, epoch: int) -> bool:
        """Try a job that is marked as running, and record its end; whether it has none, because it waits."""
        name, body = self._with_store(hand, lambda: self._store.submission(key))
        hand.tried, began = time.time(), time.monotonic()
        result: dict[str, Any] | None = None
        error: JobError | None = None
        places = [self._store.place]
        try:
            kind = self._kinds[name]
            request = kind.request.model_validate(body)
            places = [str(getattr(request, "out", None) or ""), *places]
            hand.context.check()
            with working_on(hand.context):
                result = kind.run(request, hand.context).model_dump(mode="json")
            status = JobStatus.SUCCEEDED
        except HandedOver:
            return False  # by its own word: a lease that had lapsed may have been renewed since
        except Cancelled:
            if self._closing.is_set() or hand.context.lapsed:
                return False
            status = JobStatus.CANCELLED
        except Exception as exception:  # a handler's failure is the job's end, never the service's
            if (lacking := away(exception, *places)) is not None:
                if self._park(key, hand, lacking):
                    return True
                if self._closing.is_set() or hand.context.lapsed:
                    return False
                status = JobStatus.CANCELLED
            else:
                status = JobStatus.FAILED
                # Other faults of the system (a right, a missing file) may pass too: a lost mount looks like them.
                again = isinstance(exception, Retryable | OSError)
                error = JobError(message=_said(exception), retryable=again)
                log.exception("job failed", extra={"job": key, "kind": name})
        seconds = time.monotonic() - began
        if not self._with_store(
            hand, lambda: self._store.end(key, epoch, status, result=result, error=error, seconds=seconds)
        ):
            log.warning("job ended without its lease, so its end is another's to record", extra={"job": key})
            return False
        hand.epoch = None
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
            except SQLAlchemyError as error:
                log.warning("the job store can't be used", extra={"reason": str(error)})
                hand.tried = time.time()
                hand.waits(f"the job store can't be used: {error}")
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
        if job.status not in ENDS and (created or not self._store.shared or job.status is JobStatus.QUEUED):
            self._enqueue(key)
        return job, created

    async def wait(self, key: str, seconds: float) -> Job:
        """The job of `key`, as soon as it has ended or `seconds` have passed.

        Raises:
            HTTPException: 404 when no such job exists.
        """
        until = time.monotonic() + seconds
        while True:
            hand = self._hands.get(key)
            left = until - time.monotonic()
            if hand is not None and left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hand.ended.wait(), left)
            hand = self._hands.get(key)
            seen = hand.seen() if hand is not None else {}  # before its status: what waits has begun
            job = await run_in_threadpool(self._store.get, key)
            if job is None:
                raise HTTPException(404, f"no job {key!r} here")
            left = until - time.monotonic()
            if job.status in ENDS or left <= 0 or not self._store.shared:
                return job if job.status in ENDS else job.model_copy(update=seen)
            await asyncio.sleep(min(left, LOOK_S))  # another replica works on it

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
        if hand is not None and timer is not None and hand.epoch is not None:
            self._store.end(key, hand.epoch, JobStatus.CANCELLED)
            timer.cancel()
            self._release(key)
        elif hand is None or hand.epoch is None:
            self._store.cancel(key)
            self._release(key)

    def router(self) -> APIRouter:
        """The HTTP face of the protocol."""
        router = APIRouter(tags=["jobs"], dependencies=[Depends(known_query)])

        @router.put("/v1/jobs/{key}", responses={201: {"model": Job}, 409: {"description": "key names other work"}})
        async def put_job(key: Key, submission: JobSubmission, response: Response) -> Job:
            """Start a job. The same key and body returns the same job; another body is 409."""
            self._loop = asyncio.get_running_loop()
            job, created = await run_in_threadpool(self.submit, key, submission)
            response.status_code = 201 if created else 200
            return job

        @router.get("/v1/jobs/{key}", responses={404: {"description": "no such job"}})
        async def get_job(key: Key, wait: Annotated[float, Query(ge=0, le=60)] = 0) -> Job:
            """A job, after at most `wait` seconds or as soon as it ends."""
            return await self.wait(key, wait)

        @router.delete("/v1/jobs/{key}", responses={404: {"description": "no such job"}})
        async def delete_job(key: Key) -> Job:
            """Cancel a job. Ended jobs keep their end."""
            await run_in_threadpool(self.cancel, key)
            return await self.wait(key, 0)

        return router
