"""What of a run only its broker and its workers know: why nobody advances it.

Invariant: a controller that can't be woken up writes no reason into the registry, so it is found when somebody asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import RowMapping

from pmd.gateway.registry.status import ACTIVE
from pmd.services.common import outgoing

PING_TIMEOUT_S = 1.0
KNOWN_S = 2.0
"""How long an answer of the broker is believed."""
IDLE_S = 5.0
"""An owner writes to its run more often than this, but while it finds out that a service is silent."""
NO_WORKER_S = 45.0
"""The same where there is a broker: an owner that has died keeps its lease for 30 s, and a busy worker takes turns."""

Ping = Callable[[], None]


def redis(url: str) -> Ping:
    """Asks the Redis at `url` for a sign of life; raises what went wrong."""
    from redis import Redis  # noqa: PLC0415 -- loads slowly

    def ping() -> None:
        with Redis.from_url(url, socket_connect_timeout=PING_TIMEOUT_S, socket_timeout=PING_TIMEOUT_S) as broker:
            broker.ping()

    return ping


class Broker:
    """The broker that wakes runs up, seen from outside; thread-safe."""

    def __init__(self, url: str, ping: Ping) -> None:
        self._where = outgoing.shown(url)
        self._ping = ping
        self._asked, self._problem = -KNOWN_S, ""

    def problem(self) -> str:
        """Why no run can be woken up; empty when the broker is there."""
        if time.monotonic() - self._asked >= KNOWN_S:
            try:
                self._ping()
                self._problem = ""
            except Exception as error:
                self._problem = f"the broker at {self._where} does not answer ({type(error).__name__})"
            self._asked = time.monotonic()
        return self._problem

    def left_alone(self, run: RowMapping) -> tuple[str, float] | None:
        """Why nobody advances a run that is active, and since when (Unix seconds); None while somebody does.

        Args:
            run: its row.
        """
        if run["status"] not in ACTIVE:
            return None
        since = max(run["updated"], run["due"])
        idle = time.time() - since
        if idle > IDLE_S and (problem := self.problem()):
            return problem, since
        if idle > NO_WORKER_S:
            return "no worker advances the run: all are busy with other runs, or none is there", since
        return None
