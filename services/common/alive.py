"""Signs of life: telling a server that hangs from one that works, while a call to it is out.

Invariants:
- Any answer is a sign of life, a refusal too.
- Nothing is broken off: a server that goes on after all answers the call that waits for it. Meanwhile the job that
  made the call says what it waits for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

import httpx

from pmd.services.common.jobs import current_job

SILENCE_S = 4.0
"""How long an answer may be overdue before the server is asked for a sign of life."""
SIGN_TIMEOUT_S = 2.0
"""How long it may take to give one."""


def lives(http: httpx.Client, path: str) -> bool:
    """Whether a server answers a GET of `path`, whatever it answers."""
    try:
        http.get(path, timeout=SIGN_TIMEOUT_S)
    except httpx.PoolTimeout:
        return True  # all connections of ours are taken, which says nothing about the server
    except httpx.TransportError:
        return False
    return True


class Watch:
    """A context in which the job in hand says that a server does not answer, as long as it gives no sign of life.

    Args:
        http: a client of the server with a connection to spare.
        path: what to ask for; something small.
        what: who does not answer, for people.
    """

    def __init__(self, http: httpx.Client, path: str, what: str) -> None:
        self._http, self._path = http, path
        self._reason = f"{what} does not answer"
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._job = current_job()
        self._over.clear()
        if self._job is not None:
            threading.Thread(target=self._look, name="signs-of-life", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._note(silent=False)

    def _look(self) -> None:
        with contextlib.suppress(RuntimeError):  # the client was closed at this moment
            while not self._over.wait(SILENCE_S):
                self._note(silent=not lives(self._http, self._path))

    def _note(self, *, silent: bool) -> None:
        if self._job is None:
            return
        with self._lock:
            if silent and not self._over.is_set():
                self._job.silent.setdefault(self._reason, time.time())
            else:
                self._job.silent.pop(self._reason, None)
