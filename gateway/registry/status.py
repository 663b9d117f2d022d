"""Which status of a run may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pmd.gateway.views import RunStatus

Desired = Literal["run", "pause", "cancel"]
"""What people ask for; whoever advances the run obeys."""

VALID_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset({RunStatus.PAUSED, RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.PAUSED: frozenset({RunStatus.QUEUED, RunStatus.CANCELLED}),
    RunStatus.FAILED: frozenset({RunStatus.QUEUED}),
    RunStatus.SUCCEEDED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}
"""`:resume` re-opens a paused or failed run as queued; succeeded and cancelled are final."""

ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})
DELETE = "delete"
"""Stands in the place of a `Desired` while a run is being deleted: nothing else is obeyed for it any more."""
FINAL = frozenset(status for status, following in VALID_TRANSITIONS.items() if not following)
"""Nothing is read or written for such a run any more."""
ACTIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})
GOALS: Mapping[Desired, RunStatus] = {
    "run": RunStatus.QUEUED,
    "pause": RunStatus.PAUSED,
    "cancel": RunStatus.CANCELLED,
}


class ForbiddenTransition(ValueError):
    """The run's status does not allow this; the message says what it allows."""

    def __init__(self, run: str, status: RunStatus) -> None:
        verbs = {RunStatus.QUEUED: ":resume", RunStatus.PAUSED: ":pause", RunStatus.CANCELLED: ":cancel"}
        allowed = [verb for goal, verb in verbs.items() if goal in VALID_TRANSITIONS[status]]
        hint = f"it allows {' and '.join(allowed)}" if allowed else "that is final; create another run"
        super().__init__(f"run {run!r} is {status}; {hint}")


class BeingDeleted(ValueError):
    """The run is being deleted, which can only be finished."""

    def __init__(self, run: str) -> None:
        super().__init__(f"run {run!r} is being deleted; DELETE /v1/runs/{run} finishes that")


def check_transition(run: str, old: RunStatus, new: RunStatus) -> None:
    """Refuse an edge that is not in the table.

    Raises:
        ForbiddenTransition: naming what the status allows.
    """
    if new not in VALID_TRANSITIONS[old]:
        raise ForbiddenTransition(run, old)
