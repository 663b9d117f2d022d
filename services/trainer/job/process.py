"""Knowing a process for sure, although ids are reused: its id together with when it started."""

from __future__ import annotations

import os
import threading
import time

from pmd.services.common import process
from pmd.services.common.strict import Strict


class ProcessId(Strict):
    """A process of this machine, past or present."""

    pid: int
    started: int
    """Clock ticks from boot to its start (field 22 of /proc/<pid>/stat)."""

    @staticmethod
    def of(pid: int) -> ProcessId | None:
        """The process that has this id now, or None. A zombie has ended."""
        began = process.started(pid)
        return None if began is None else ProcessId(pid=pid, started=began)

    @staticmethod
    def me() -> ProcessId:
        """This process."""
        own = ProcessId.of(os.getpid())
        assert own is not None  # noqa: S101 -- it runs
        return own

    @property
    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def end_with(parent: ProcessId, check_s: float = 0.5) -> None:
    """End this process soon after `parent` has, however that ended.

    PDEATHSIG would fire when the *thread* that started us ends, and does not reach the ranks below torchrun.
    Ending at any moment is safe: that is what the spool and the checkpoints are for.
    """

    def watch() -> None:
        while parent.alive:
            time.sleep(check_s)
        os._exit(75)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
