"""Jobs at work: the threads of a service that do them, and the HTTP face of the protocol (`pmd.services.common.jobs`).

Invariant: a job whose end can't be recorded (a full disk) keeps its thread until it can be; it never stays without one.
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
)
from pmd.services.common.strict import explain, nearest
from pmd.services.common.telemetry import JOB_SECONDS, JOBS

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STORE_RETRY_S = 2.0
"""How long a job waits for a store that can't be used before it tries again."""

Key = Annotated[str, PathParam(pattern=r"^[A-Za-z0-9._:@-]{1,200}$", examples=["demo.s0003.rollout.1"])]


class _Closing(Exception):
    """The service stops before its store could be used."""


class JobRunner:
    """Runs a service's jobs on threads and answers for them over HTTP."""

    def __init__(self, service: str, store: JobStore, kinds: Mapping[str, JobKind[Any]], *, workers: int = 1) -> None:
        self.service = service
        self._store = store
        self._kinds = kinds
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"{service}-job")
        self._cancels: dict[str, threading.Event] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = threading.Event()

    def recover(self) -> None:
        """Run the jobs that a crash left without an end. Call once the service can work."""
        self._loop = asyncio.get_running_loop()
        for key in self._store.unfinished():
            if key not in self._cancels:  # somebody asked for it first
                log.info("job resumed after a restart", extra={"job": key})
                self._enqueue(key)

    def close(self) -> None:
        """Stop taking work; running jobs are left without an end and run again at the next start."""
        self._closing.set()
        for cancel in list(self._cancels.values()):
            cancel.set()
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
        cancel = self._cancels[key] = threading.Event()
        self._ended[key] = asyncio.Event()
        self._pool.submit(self._run, key, cancel)

    def _run(self, key: str, cancel: threading.Event) -> None:
        try:
            if self._insist(lambda: self._store.start(key)):
                self._work(key, cancel)
        except _Closing:
            log.warning("job left for the next start", extra={"job": key})
        finally:
            self._release(key)

    def _work(self, key: str, cancel: threading.Event) -> None:
        """Run a job that is marked as running, and record its end."""
        name, body = self._insist(lambda: self._store.submission(key))
        began = time.monotonic()
        result: dict[str, Any] | None = None
        error: JobError | None = None
        try:
            kind = self._kinds[name]
            request = kind.request.model_validate(body)
            result = kind.run(request, JobContext(key, cancel)).model_dump(mode="json")
            status = JobStatus.SUCCEEDED
        except Cancelled:
            if self._closing.is_set():
                return
            status = JobStatus.CANCELLED
        except Exception as exception:  # a handler's failure is the job's end, never the service's
            status = JobStatus.FAILED
            # A file's name in it may be no Unicode, which JSON can't carry.
            message = f"{type(exception).__name__}: {exception}".encode(errors="backslashreplace").decode()
            error = JobError(message=message, retryable=isinstance(exception, Retryable))
            log.exception("job failed", extra={"job": key, "kind": name})
        seconds = time.monotonic() - began
        self._insist(lambda: self._store.end(key, status, result=result, error=error, seconds=seconds))
        JOBS.labels(self.service, name, status).inc()
        JOB_SECONDS.labels(self.service, name).observe(seconds)

    def _insist(self, use: Callable[[], Answer]) -> Answer:
        """Use the store, as often as it takes until that works.

        Raises:
            _Closing: when the service stops before; what has no end on disk runs again at the next start.
        """
        while True:
            try:
                return use()
            except sqlite3.Error as error:
                log.warning("the job store can't be used; look after its disk", extra={"reason": str(error)})
            if self._closing.wait(STORE_RETRY_S):
                raise _Closing

    def _release(self, key: str) -> None:
        """Nobody works on a job any more: let those who wait for it look at it."""
        self._cancels.pop(key, None)
        ended = self._ended.pop(key, None)
        if ended is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(ended.set)

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
        if job.status not in ENDS and key not in self._cancels:
            self._enqueue(key)
        return job, created

    async def wait(self, key: str, seconds: float) -> Job:
        """The job of `key`, as soon as it has ended or `seconds` have passed.

        Raises:
            HTTPException: 404 when no such job exists.
        """
        ended = self._ended.get(key)
        if ended is not None and seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), seconds)
        job = self._store.get(key)
        if job is None:
            raise HTTPException(404, f"no job {key!r} here")
        return job

    def cancel(self, key: str) -> None:
        """Ask a job to end; a queued job ends at once, a running one at its next check."""
        cancel = self._cancels.get(key)
        job = self._store.get(key)
        if job is None:
            raise HTTPException(404, f"no job {key!r} here")
        if cancel is not None:
            cancel.set()
        if job.status is JobStatus.QUEUED or cancel is None:
            self._store.end(key, JobStatus.CANCELLED)
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
