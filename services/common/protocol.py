"""A connection to a service: uvicorn's own, with an end to waiting for the head of a request.

Invariants:
- A connection that has no request under way holds a descriptor for at most `HEAD_S`: from its opening, or from the
  first byte after an answer, until the whole head of a request is there. A quiet one that has been answered ends
  earlier, by uvicorn's keep-alive.
- When `MOST` connections are open, one that has no request under way makes room for a new one, the oldest first: who
  opens many and asks nothing takes no place from others.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0
MOST = 800
"""Below the usual 1,024 descriptors of a process, which also has files and connections of its own."""


class Connection(H11Protocol):
    """What uvicorn makes of each connection that is accepted."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MOST:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each.is_waiting]
            min(waiting, key=lambda each: each.waits_until).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_came()
        elif self._head is None:
            self._await_head()

    @property
    def is_waiting(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def waits_until(self) -> float:
        """When it is closed, in the loop's time, unless the head of a request comes."""
        timer = self._head or self.timeout_keep_alive_task
        return timer.when() if timer else 0.0

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._give_up)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        if self.is_waiting:
            self.transport.abort()
