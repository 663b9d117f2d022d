"""The pulse of a controller process: a file that it touches while its loop turns, and the probe that looks at it.

Worker and beat listen on no port, so a cluster asks `python -m pmd.gateway.controller.pulse worker` (alive?) and
`... pulse worker --ready`. The standard library is enough for that: a probe that loads Celery costs a core.

Invariants:
- A file is touched by the loop that does the work, so one that hangs is noticed.
- No file means that the process waits for its broker: alive, as waiting is not failing, but not ready.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

BEAT_S = 5.0
"""How often a process touches its file."""
STALE_S = 60.0
"""Age at which its loop has stopped: longer than anything that it does between two turns."""


def path_of(name: str, state_dir: Path) -> Path:
    """The file of the process `name`."""
    return state_dir / "controller" / f"{name}.pulse"


class Pulse:
    """The file of this process."""

    def __init__(self, name: str, state_dir: Path) -> None:
        """Begin without one: what is there is a predecessor's."""
        self._path = path_of(name, state_dir)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)

    def touch(self) -> None:
        """Say that the loop turns."""
        self._path.touch(mode=0o600)


def problem(path: Path, *, ready: bool) -> str:
    """What is wrong with the process whose pulse `path` is; empty when nothing is.

    Args:
        ready: whether one that has not begun to work is wrong too.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return "it has not begun to work: it starts, or waits for its broker" if ready else ""
    return f"its loop stands still, for {age:.0f} s now" if age > STALE_S else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="pmd.gateway.controller.pulse")
    parser.add_argument("name", choices=("worker", "beat"))
    parser.add_argument("--ready", action="store_true", help="be content only with a process that works")
    asked = parser.parse_args()
    state = Path(os.environ.get("PMD_STATE_DIR") or "var")
    sys.exit(problem(path_of(asked.name, state), ready=asked.ready) or 0)
