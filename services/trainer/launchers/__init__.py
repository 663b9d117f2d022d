"""Launchers: who starts and ends the processes that train runs. `Launcher` is all that the service knows of one.

Invariants of every launcher (tests/trainer/test_launcher_contract.py):
- A step is done once: the same request again finds its recorded result, another request in its place is refused
  once it was applied.
- Giving up a step leaves it recorded; the same request finds it done or to be done.
- What went wrong is said as it is: `StepFailed` for what would fail again, `Retryable` for what may not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pmd.services.common.jobs import Retryable
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.waiting import Away
from pmd.services.trainer.job.spool import Spool

POLL_S = 0.01
"""How often a spool is looked at while a step is done."""
END_PATIENCE_S = 10.0
"""How long a process may take to let go of its run."""


class StepFailed(RuntimeError):
    """The job process recorded why it can't do a step."""


class Launcher(Protocol):
    """Has the steps of runs done by processes that share their spools; safe to use from many threads."""

    def spool(self, run: str) -> Spool:
        """The folder through which the job process of `run` is spoken to."""
        ...

    def details(self) -> dict[str, Any]:
        """What is in force, for `/readyz`.

        Raises:
            Away: when nothing could be started now.
        """
        ...

    def train(self, request: TrainRequest, check: Callable[[], None]) -> TrainResult:
        """Have a step done, or find its recorded result.

        Args:
            check: called while waiting; raises to give up. The step stays recorded. Where processes outlive the
                service, a `HandedOver` leaves them at it, and anything else ends them.

        Raises:
            SpoolConflict: when another request was applied in this place, or the one before it was not.
            SpoolBusy: when another request is in progress in this place, by a process that is not ours to end.
            StepFailed: when the process says why it can't; the same request would fail again.
            Retryable: when trying again may help.
            Away: when storage is full or out of reach, or a process of an earlier service still holds the run.
        """
        ...

    def prepare(self, run: str, most: int) -> None:
        """Have a process ready for a run that has no step to do yet, unless `most` processes live."""
        ...

    def release(self, run: str) -> None:
        """Let go of what a run holds while it does no step. A later step resumes."""
        ...

    def close(self) -> None:
        """End what must not outlive the service. Steps in progress are resumed by the next one."""
        ...


def record(spool: Spool, request: TrainRequest, end: Callable[[], None]) -> None:
    """Record a step in its spool.

    It may take the place of another that was given up, once no process can be at that one: `end` ends the caller's.
    """
    version = request.from_version
    if spool.request(version) in (None, request) or spool.applied(version):
        spool.submit(request)
        return
    end()
    with spool.lock(END_PATIENCE_S):
        spool.submit(request)


def outcome(spool: Spool, version: int) -> TrainResult | None:
    """What the process recorded of the step from `version`; None while it is at it.

    Raises:
        StepFailed: when the process says why it can't; the same request would fail again.
        Retryable: when it says that trying again may help.
        Away: when it says what it waits for.
    """
    if (result := spool.result(version)) is not None:
        return result
    if error := spool.error(version):
        if error.waits:
            raise Away(error.message)
        raise Retryable(error.message) if error.retryable else StepFailed(error.message)
    return None
