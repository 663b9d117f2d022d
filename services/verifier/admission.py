"""Which requests are let in: what they hold in memory is bounded, and a service that stops takes no new ones.

Invariants:
- A body is counted before it is read, by its announced length. What doesn't fit is refused with 429 and the time after
  which to try again; nothing that was let in is dropped for another.
- One request alone always fits: the largest body is smaller than the bound.
- After `drain`, requests under way have `grace_s` to end; new ones are refused with 503.

The memory of programs is bounded elsewhere: `Pool` lets a program start only when its limit fits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

from fastapi import FastAPI, Request, Response

from pmd.services.common.app import problem
from pmd.services.verifier.metrics import PENDING_BYTES, REFUSED

RETRY_MIN_S, RETRY_MAX_S = 1, 60
ASSUMED_BYTES_PER_S = 1e6
"""Rate at which bodies are answered, before the first one has been."""
SMOOTHING = 0.3


class Refused(RuntimeError):
    """A request that is not let in: `status` is 429 or 503, `retry_after_s` when to try again."""

    def __init__(self, status: int, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class Admission:
    """Counts the bodies of requests under way; thread-safe."""

    def __init__(self, max_bytes: int, *, grace_s: float) -> None:
        self.max_bytes = max_bytes
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._bytes = 0
        self._rate = ASSUMED_BYTES_PER_S
        self._ends: float | None = None

    @contextlib.contextmanager
    def let_in(self, size: int) -> Iterator[None]:
        """Hold `size` bytes while a request is answered.

        Raises:
            Refused: the service stops, or too much is under way.
        """
        with self._lock:
            if self._ends is not None:
                raise self._refused(503, "the verifier is stopping; send the request again", 5)
            if self._bytes + size > self.max_bytes:
                wait_s = int(max(RETRY_MIN_S, min(RETRY_MAX_S, self._bytes / self._rate)))
                message = f"requests of {self._bytes} bytes are under way; send this one again in {wait_s} s"
                raise self._refused(429, message, wait_s)
            self._bytes += size
            PENDING_BYTES.inc(size)
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                rate = size / max(time.monotonic() - began, 1e-3)
                self._rate += SMOOTHING * (max(rate, 1.0) - self._rate)
                self._bytes -= size
                PENDING_BYTES.dec(size)

    def _refused(self, status: int, message: str, retry_after_s: int) -> Refused:
        REFUSED.labels(status).inc()
        return Refused(status, message, retry_after_s)

    def drain(self) -> None:
        """Let nothing more in. Safe to call from a signal handler, and more than once."""
        if self._ends is None:
            self._ends = time.monotonic() + self._grace_s

    @property
    def draining(self) -> bool:
        """Whether the service stops."""
        return self._ends is not None

    @property
    def overdue(self) -> bool:
        """Whether requests under way have had their time."""
        return self._ends is not None and time.monotonic() >= self._ends


def limit_bodies(app: FastAPI, admission: Admission, max_mb: int) -> None:
    """Take bodies of a known length, of at most `max_mb` each, and together what `admission` lets in."""

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method not in ("POST", "PUT"):
            return await call_next(request)
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            return problem(411, "send a Content-Length")
        if int(length) > max_mb << 20:
            return problem(413, f"the body is over {max_mb} MB; send a job with a reference")
        try:
            with admission.let_in(int(length)):
                return await call_next(request)
        except Refused as refused:
            response = problem(refused.status, str(refused))
            response.headers["Retry-After"] = str(refused.retry_after_s)
            return response
