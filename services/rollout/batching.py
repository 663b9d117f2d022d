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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pmd.services.common.wire import Policy, Sampling
from pmd.services.rollout.completion import Completion, Row

LINGER_S = 0.005
"""Requests of one moment arrive within a few milliseconds of each other; waiting so long gathers them."""

Said = Callable[[int, Sequence[int]], None]
"""Told of the next tokens of a row, by its place, from another thread."""

Draw = Callable[[Policy, Sequence[Row], Sampling, Callable[[], None], Said | None], list[Completion]]

AT_ONCE = 64
"""Most batches that are drawn side by side."""


class Abandoned(Exception):
    """Nobody waits for a batch any more."""


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
    said: Said | None = None
    arrived: float = field(default_factory=time.monotonic)

    @property
    def batch(self) -> tuple[str, str, Sampling]:
        """Requests with equal values may share a batch."""
        # The hash, not the name: a version published anew must not answer for the old one.
        return self.burst.key if self.burst else "", self.policy.run + self.policy.weights.sha256, self.sampling


class Batcher:
    """Gathers requests and hands them to `draw` on a thread."""

    def __init__(self, draw: Draw, wait_s: float, side_by_side: Callable[[], bool] = lambda: False) -> None:
        """Args:
        wait_s: longest wait for a burst.
        side_by_side: whether batches are drawn as they come; else one at a time, so that what arrives meanwhile
            gathers.
        """
        self._draw = draw
        self._wait_s = wait_s
        self._side_by_side = side_by_side
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rollout-chat")
        self._running: set[asyncio.Task[None]] = set()
        self._queue: list[Waiting] = []
        self._arrival = asyncio.Event()

    async def submit(
        self,
        policy: Policy,
        sampling: Sampling,
        rows: list[Row],
        burst: Burst | None = None,
        said: Said | None = None,
    ) -> list[Completion]:
        """The completions of `rows`, in order; raises what drawing them raised.

        Args:
            said: told of tokens of `rows` as they are drawn.
        """
        answer: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(policy, sampling, rows, burst, answer, said))
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
                task = asyncio.create_task(self._answer(group))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                if not self._side_by_side():
                    await task
            if due:
                continue
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), next_s)
                await asyncio.sleep(LINGER_S)
            except TimeoutError:
                pass  # a burst is overdue

    async def _answer(self, group: list[Waiting]) -> None:
        places = [(waiting, i) for waiting in group for i in range(len(waiting.rows))]
        rows = [waiting.rows[i] for waiting, i in places]

        def check() -> None:
            if all(waiting.answer.done() for waiting in group):
                raise Abandoned

        def said(row: int, token_ids: Sequence[int]) -> None:
            waiting, i = places[row]
            if waiting.said is not None:
                waiting.said(i, token_ids)

        listened = any(waiting.said for waiting in group)
        asked = (group[0].policy, rows, group[0].sampling, check, said if listened else None)
        try:
            drawn = await asyncio.get_running_loop().run_in_executor(self._pool, self._draw, *asked)
        except Exception as error:  # the cause belongs to the requests, the queue goes on
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting in group:
            mine, drawn = drawn[: len(waiting.rows)], drawn[len(waiting.rows) :]
            if not waiting.answer.done():
                waiting.answer.set_result(mine)
