"""Reading files of recipes and runs: in threads of its own, so that a file system that hangs takes none from others.

Invariant: at most `THREADS` threads read, however many ask. Who comes when all are taken waits for `PATIENCE_S` on the
event loop, and is then sent away with 503.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException

T = TypeVar("T")

THREADS = 8
PATIENCE_S = 20.0


class Reading:
    """The threads."""

    def __init__(self) -> None:
        self._places = CapacityLimiter(THREADS)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, worked out in one of the threads.

        Raises:
            HTTPException: 503 when none became free.
            Exception: what `work` raises.
        """
        place = object()
        try:
            with anyio.fail_after(PATIENCE_S):
                await self._places.acquire_on_behalf_of(place)
        except TimeoutError:
            cause = f"{THREADS} other requests read files of recipes and runs; does a file system hang? Try again"
            raise HTTPException(503, cause, {"Retry-After": "5"}) from None
        try:
            return await to_thread.run_sync(work, limiter=CapacityLimiter(1))
        finally:
            self._places.release_on_behalf_of(place)
