"""How the service and the job process of a run talk: files below one folder.

    <spool>/lock                      held (flock) by the job process while it lives
    <spool>/process.json              who that is
    <spool>/steps/0000007/request.json   the step that trains version 7 into version 8
    <spool>/steps/0000007/result.json    its end: what `train` answers ..
    <spool>/steps/0000007/error.json     .. or why it, or the replay of a step before it, failed
    <spool>/checkpoints/v0000008/        state after that step

Invariants:
- Every file appears by rename, complete. `result.json` is the last thing a step writes: what stands behind it
  (weights, due checkpoint) is there.
- A recorded request is never replaced once its step was applied, so replaying the requests after a checkpoint
  repeats exactly what was done.

Works over any shared file system with rename and flock, so the job process may run on other machines.
"""

from __future__ import annotations

import fcntl
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.strict import Strict
from pmd.services.common.waiting import Away
from pmd.services.common.wire import Weights

LOCK = "lock"


class SpoolConflict(ValueError):
    """A request does not fit the steps that were applied."""


class SpoolBusy(Away):
    """Another process holds the run's lock; it is waited for."""


class StepError(Strict):
    """Why a step failed, and whether the same request may succeed later."""

    message: str
    retryable: bool
    waits: bool = False
    """It could not be done because storage is full or out of reach, which is waited for."""


def write_atomically(path: Path, text: str) -> None:
    """Make `path` hold `text`, in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        part.write_text(text)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class Spool:
    """The folder of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.process_file = root / "process.json"

    def _step(self, version: int) -> Path:
        return self.root / "steps" / f"{version:07d}"

    def submit(self, request: TrainRequest) -> None:
        """Record a step. The same request again changes nothing, except that a recorded error is forgotten.

        Raises:
            SpoolConflict: when the step of this version was applied with another request, or the one before it
                was not applied.
        """
        version = request.from_version
        if version != request.base.version and not self.applied(version - 1):
            raise SpoolConflict(
                f"run {request.run}: version {version} was not trained here; submit the steps in order, and keep"
                f" {self.root}, which holds the optimizer's state"
            )
        known = self.request(version)
        if known is not None and known != request and self.applied(version):
            raise SpoolConflict(
                f"run {request.run}: version {version + 1} was trained from another request; a step can't be redone"
            )
        if known != request:
            write_atomically(self._step(version) / "request.json", request.model_dump_json())
        (self._step(version) / "error.json").unlink(missing_ok=True)

    def applied(self, version: int) -> bool:
        """Whether the step that trains `version` has left a result or a checkpoint."""
        return self.result(version) is not None or any(saved > version for saved in self.saved_versions())

    def request(self, version: int) -> TrainRequest | None:
        """The recorded request that trains `version` into the next, or None."""
        path = self._step(version) / "request.json"
        return TrainRequest.model_validate_json(path.read_text()) if path.is_file() else None

    def result(self, version: int) -> TrainResult | None:
        """The recorded result of the step that trains `version` into the next, or None."""
        path = self._step(version) / "result.json"
        return TrainResult.model_validate_json(path.read_text()) if path.is_file() else None

    def error(self, version: int) -> StepError | None:
        """Why the step that trains `version` failed, or None."""
        path = self._step(version) / "error.json"
        return StepError.model_validate_json(path.read_text()) if path.is_file() else None

    def record(self, version: int, end: TrainResult | StepError) -> None:
        """End the step that trains `version`."""
        name = "result.json" if isinstance(end, TrainResult) else "error.json"
        write_atomically(self._step(version) / name, end.model_dump_json())

    def saved_versions(self) -> list[int]:
        """Versions with a complete checkpoint, ascending."""
        return sorted(int(path.name[1:]) for path in self.checkpoints.glob("v[0-9]*"))

    def checkpoint(self, version: int) -> Path:
        """Folder of the checkpoint at `version`."""
        return self.checkpoints / f"v{version:07d}"

    def _versions(self) -> list[int]:
        return sorted(int(path.name) for path in (self.root / "steps").glob("[0-9]*"))

    def exported(self) -> list[Weights]:
        """The weights that the recorded steps exported, oldest first."""
        results = (self.result(version) for version in self._versions())
        return [result.weights for result in results if result is not None]

    def waited_for(self) -> TrainRequest | None:
        """The recorded request that has no end yet, or None. It is the newest: those before it were applied."""
        for version in self._versions()[-1:]:
            if self.result(version) is None and self.error(version) is None:
                return self.request(version)
        return None

    def open(self, version: int) -> TrainRequest | None:
        """What a job process at `version` has to do next, or None.

        Steps that have a result are done again by a process that restored an older checkpoint, on its way to the
        one that is waited for. When that one has failed, nothing is done until it is submitted again.
        """
        request = self.request(version)
        return request if request and self.waited_for() else None

    def fail(self, error: StepError) -> None:
        """End the step that is waited for, whichever it was that failed on the way to it; the first cause stays."""
        if (request := self.waited_for()) is not None:
            self.record(request.from_version, error)

    def held(self) -> bool:
        """Whether a process holds the run's lock."""
        try:
            file = (self.root / LOCK).open()
        except FileNotFoundError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @contextmanager
    def lock(self, patience_s: float) -> Iterator[None]:
        """Be the run's only job process. The kernel frees the lock when the process ends, however it ends.

        Raises:
            SpoolBusy: when another process still holds it after `patience_s` seconds.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + patience_s
        with (self.root / LOCK).open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise SpoolBusy(f"another process trains the run in {self.root}; it must end first") from None
                    time.sleep(0.05)
            yield
