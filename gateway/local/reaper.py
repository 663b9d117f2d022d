"""The reaper: kills every process group that the supervisor told it of, once its stdin ends.

Started by `pmd.gateway.local.supervisor` as a child that outlives it. The pipe ends however the supervisor dies,
SIGKILL included, so nothing that it started is ever left behind. Standard library only: it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TextIO


def watch(pipe: TextIO) -> None:
    """Read `+group` and `-group` lines until the end of `pipe`, then kill the groups still listed."""
    groups: set[int] = set()
    for line in pipe:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # only the end of the pipe ends it
    watch(sys.stdin)
