"""Steps for processes that somebody else starts, on a folder that both sides share.

Invariant: nothing is started and nothing is ended here. A step waits in its spool until a process takes it; one that
is given up is finished by that process, or replaced before it was begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.trainer.job.spool import Spool
from pmd.services.trainer.launchers import POLL_S, outcome, record


class ExternalLauncher:
    """Spools below one folder, worked on from elsewhere."""

    def __init__(self, root: Path) -> None:
        """Args:
        root: folder of all runs' spools.
        """
        self._root = root

    def spool(self, run: str) -> Spool:
        return Spool(self._root / run)

    def details(self) -> dict[str, Any]:
        return {}

    def train(self, request: TrainRequest, check: Callable[[], None]) -> TrainResult:
        spool = self.spool(request.run)
        record(spool, request, lambda: None)
        while (result := outcome(spool, request.from_version)) is None:
            check()
            time.sleep(POLL_S)
        return result

    def prepare(self, run: str, most: int) -> None:
        """Nothing to do: who starts the processes knows when."""

    def release(self, run: str) -> None:
        """Nothing to do: a process ends by itself after some time without work."""

    def close(self) -> None:
        """Nothing to do: no process is ours."""
