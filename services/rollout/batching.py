"""Concurrent chat requests drawn together.

A queue is drained into batches: whatever has arrived while the engine was busy goes out side by side, one batch
per policy and sampling setting. A client that sends many requests at once can announce them as a burst
(`batch` names it, `batch_size` says how many); the burst then runs as one batch in the order of `index`, which
makes it fast and, the batch being always the same, reproducible bit for bit.

Invariant: a burst waits for its members at most `wait_s` seconds from its first arrival, then runs with what is
there; so a client that dies halfway delays nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pmd.services.common.wire import Policy, Sampling
from pmd.services.rollout.completion import Completion, Row

LINGER_S = 0.005
"""Requests of one moment arrive within a few milliseconds of each other; waiting so long gathers them."""

Draw = Callable[[Policy, Sequence[Row], Sampling], list[Completion]]


@dataclass(frozen=True)
class Burst:
    """A request's place among requests that belong together."""

    key: str
    size: int
    index: int


@dataclass(eq=False)
class Waiting:
    """A request that waits for its completions, one per row."""

    policy: Policy
    sampling: Sampling
    rows: list[Row]
    burst: Burst | None
    answer: asyncio.Future[list[Completion]]
    arrived: float = field(default_factory=time.monotonic)

    @property
    def batch(self) -> tuple[str, str, Sampling]:
        """Requests with equal values may share a batch."""
        # The hash, not the name: a version published anew must not answer for the old one.
        return self.burst.key if self.burst else "", self.policy.run + self.policy.weights.sha256, self.sampling


class Batcher:
    """Gathers requests and hands them to `draw` on a thread, one batch at a time."""

    def __init__(self, draw: Draw, wait_s: float) -> None:
        self._draw = draw
        self._wait_s = wait_s
        self._queue: list[Waiting] = []
        self._arrival = asyncio.Event()

    async def submit(
        self, policy: Policy, sampling: Sampling, rows: list[Row], burst: Burst | None = None
    ) -> list[Completion]:
        """The completions of `rows`, in order; raises what drawing them raised."""
        answer: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(policy, sampling, rows, burst, answer))
        self._arrival.set()
        return await answer

    def _due(self, now: float) -> tuple[list[list[Waiting]], float | None]:
        """Take the batches that can run out of the queue; also the seconds until the next burst is overdue."""
        groups: dict[tuple[str, str, Sampling], list[Waiting]] = {}
        for waiting in self._queue:
            if not waiting.answer.done():  # else its client has gone away
                groups.setdefault(waiting.batch, []).append(waiting)
        due, kept, next_s = [], [], None
        for group in groups.values():
            burst, left_s = group[0].burst, group[0].arrived + self._wait_s - now
            if burst is not None and len(group) < burst.size and left_s > 0:
                kept += group
                next_s = left_s if next_s is None else min(next_s, left_s)
            else:
                due.append(sorted(group, key=lambda waiting: waiting.burst.index if waiting.burst else 0))
        self._queue = kept
        return due, next_s

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        while True:
            due, next_s = self._due(time.monotonic())
            for group in due:
                await self._answer(group)
            if due:
                continue
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), next_s)
                await asyncio.sleep(LINGER_S)
            except TimeoutError:
                pass  # a burst is overdue

    async def _answer(self, group: list[Waiting]) -> None:
        rows = [row for waiting in group for row in waiting.rows]
        try:
            drawn = await asyncio.to_thread(self._draw, group[0].policy, rows, group[0].sampling)
        except Exception as error:  # the cause belongs to the requests, the queue goes on
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting in group:
            mine, drawn = drawn[: len(waiting.rows)], drawn[len(waiting.rows) :]
            if not waiting.answer.done():
                waiting.answer.set_result(mine)
