"""A run's log as server-sent events: replay what is recorded, then tail it.

Invariants: events come in order, each once, with their `seq` as id, so `Last-Event-ID` resumes without a gap; the
stream ends when the run has ended and its last event is sent; nothing is worked on here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool

from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.status import ENDED
from pmd.gateway.views import EventView

TAIL_S = 0.3
"""How often the log is looked at while nothing happens."""
HEARTBEAT_S = 15.0
PAGE = 500


async def stream(registry: Registry, run: str, after: int) -> AsyncIterator[str]:
    """The run's events with a higher `seq` than `after`, as the lines of an event stream."""
    quiet_since = time.monotonic()
    while True:
        ended, page = await run_in_threadpool(_look, registry, run, after)
        for event in page:
            yield f"id: {event.seq}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n"
            after = event.seq
        if page:
            quiet_since = time.monotonic()
            continue
        if ended:
            return
        if time.monotonic() - quiet_since >= HEARTBEAT_S:
            yield ": heartbeat\n\n"
            quiet_since = time.monotonic()
        await asyncio.sleep(TAIL_S)


def _look(registry: Registry, run: str, after: int) -> tuple[bool, list[EventView]]:
    # The status first: events that came before an end that is seen here are then on this page or the next.
    # Not the event `run.ended`, which a run that failed and was resumed has in the middle of its log.
    ended = registry.run(run)["status"] in ENDED
    return ended, registry.events(run, after=after, limit=PAGE)
