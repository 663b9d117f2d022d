"""A run's log as server-sent events: replay what is recorded, then tail it.

Invariants: events come in order, each once, with their `seq` as id, so `Last-Event-ID` resumes without a gap; the
stream ends when the run has ended and its last event is sent; the end of a log is looked at by one task, however many
read it; nothing is worked on here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool

from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.status import ENDED
from pmd.gateway.views import EventView

TAIL_S = 0.3
"""How often the log is looked at while nothing happens."""
HEARTBEAT_S = 15.0
PAGE = 500


class Tail:
    """The end of one run's log, for all who read it."""

    def __init__(self, registry: Registry, run: str, after: int) -> None:
        """Args:
        after: seq from which the log is looked at; who is further behind reads up to it alone.
        """
        self.readers = 0
        self.ended = False
        """The run has ended and there is nothing after `seq`."""
        self.moved = asyncio.Event()
        """Set when there is something new, another one then takes its place."""
        self._registry, self._run = registry, run
        self._newest: deque[EventView] = deque()
        self._after, self._seq = after, after  # `_newest` holds what is between the two
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            while True:
                ended, page = await run_in_threadpool(_look, self._registry, self._run, self._seq)
                self._keep(page)
                self.ended = ended and not page
                if page or self.ended:
                    self._signal()
                if not page:
                    await asyncio.sleep(TAIL_S)
        finally:
            self._signal()  # whatever ended this, nobody waits for it in vain

    def _keep(self, page: list[EventView]) -> None:
        for event in page:
            self._newest.append(event)
            self._seq = event.seq
        while len(self._newest) > PAGE:
            self._after = self._newest.popleft().seq

    def _signal(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    async def since(self, after: int) -> list[EventView]:
        """Events with a higher seq than `after`, the first of them; none for who has read all that is known.

        Raises:
            Exception: why the log can't be read.
        """
        if self._watching.done():
            self._watching.result()
        if after < self._after:
            return await run_in_threadpool(self._registry.events, self._run, after=after, limit=PAGE)
        return [event for event in self._newest if event.seq > after]

    def close(self) -> None:
        """Look no more."""
        self._watching.cancel()


class Tails:
    """The tails of the runs that somebody reads; they belong to the event loop of the application."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tails: dict[str, Tail] = {}

    @contextlib.asynccontextmanager
    async def of(self, run: str, after: int) -> AsyncIterator[Tail]:
        """The tail of a run, kept as long as somebody reads it."""
        tail = self._tails.get(run)
        if tail is None:
            tail = self._tails[run] = Tail(self._registry, run, after)
        tail.readers += 1
        try:
            yield tail
        except Exception:
            self._tails.pop(run, None)  # whoever comes next looks anew
            raise
        finally:
            tail.readers -= 1
            if not tail.readers:
                tail.close()
                if self._tails.get(run) is tail:
                    del self._tails[run]

    async def stream(self, run: str, after: int) -> AsyncIterator[str]:
        """The run's events with a higher `seq` than `after`, as the lines of an event stream."""
        async with self.of(run, after) as tail:
            while True:
                moved, ended = tail.moved, tail.ended
                events = await tail.since(after)
                for event in events:
                    yield f"id: {event.seq}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n"
                    after = event.seq
                if events:
                    continue
                if ended:
                    return
                try:
                    await asyncio.wait_for(moved.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield ": heartbeat\n\n"


def _look(registry: Registry, run: str, after: int) -> tuple[bool, list[EventView]]:
    # The status first: events that came before an end that is seen here are then on this page or the next.
    # Not the event `run.ended`, which a run that failed and was resumed has in the middle of its log.
    ended = registry.run(run)["status"] in ENDED
    return ended, registry.events(run, after=after, limit=PAGE)
