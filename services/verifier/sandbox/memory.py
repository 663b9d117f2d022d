"""Memory that programs may take together: given before a program starts, in the order of asking.

Invariant: what is given never exceeds `total_mb`, however many pools share the account; a program that wants much is
not overtaken for ever by those that want little.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from pmd.services.verifier.metrics import MEMORY
from pmd.services.verifier.sandbox.job import SandboxError


class Memory:
    """An account of megabytes; thread-safe."""

    def __init__(self, total_mb: int) -> None:
        self.total_mb = self._free = total_mb
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextlib.contextmanager
    def reserve(self, megabytes: int) -> Iterator[None]:
        """Wait until so much is free, and hold it.

        Raises:
            SandboxError: there is never so much.
        """
        if megabytes > self.total_mb:
            raise SandboxError(f"a job wants {megabytes} MB of {self.total_mb} MB")
        turn = object()
        with self._changed:
            self._line.append(turn)
            self._changed.wait_for(lambda: self._line[0] is turn and self._free >= megabytes)
            self._line.popleft()
            self._free -= megabytes
            self._changed.notify_all()
        MEMORY.inc(megabytes << 20)
        try:
            yield
        finally:
            MEMORY.dec(megabytes << 20)
            with self._changed:
                self._free += megabytes
                self._changed.notify_all()
