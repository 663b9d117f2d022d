"""Which requests are let in: what they hold in memory is bounded, and a service that stops takes no new ones.

Invariants:
- A body is counted as it arrives: one that is announced and never sent holds nothing. What doesn't fit is refused with
  429 and the time after which to try again; nothing that has arrived is dropped for another.
- One request alone always fits: the largest body is smaller than the bound.
- After `drain`, requests under way have `grace_s` to end; new ones are refused with 503.

The memory of programs is bounded elsewhere: `Pool` lets a program start only when its limit fits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from fastapi import HTTPException

from pmd.services.verifier.metrics import PENDING_BYTES, REFUSED

RETRY_MIN_S, RETRY_MAX_S = 1, 60
ASSUMED_BYTES_PER_S = 1e6
"""Rate at which bodies are answered, before the first one has been."""
SMOOTHING = 0.3


class Refused(HTTPException):
    """A request that is not let in: 429 or 503, and when to try again."""

    def __init__(self, status: int, message: str, retry_after_s: int) -> None:
        super().__init__(status, message, {"Retry-After": str(retry_after_s)})


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
    def let_in(self) -> Iterator[Callable[[int], None]]:
        """Hold a request's body while it is answered; yields what to tell of bytes that have come.

        Raises:
            Refused: the service stops, or (from what is yielded) too much is under way; nothing is held any more.
        """
        if self._ends is not None:
            raise self._refused(503, "the verifier is stopping; send the request again", 5)
        held = 0
        began = time.monotonic()

        def take(size: int) -> None:
            nonlocal held
            with self._lock:
                others = self._bytes - held
                if self._bytes + size > self.max_bytes:
                    self._hold(-held)
                    held = 0
                    wait_s = int(max(RETRY_MIN_S, min(RETRY_MAX_S, others / self._rate)))
                    message = f"requests of {others} bytes are under way; send this one again in {wait_s} s"
                    raise self._refused(429, message, wait_s)
                self._hold(size)
                held += size

        try:
            yield take
        finally:
            with self._lock:
                if held:
                    rate = held / max(time.monotonic() - began, 1e-3)
                    self._rate += SMOOTHING * (max(rate, 1.0) - self._rate)
                self._hold(-held)

    def _hold(self, size: int) -> None:
        self._bytes += size
        PENDING_BYTES.inc(size)

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
