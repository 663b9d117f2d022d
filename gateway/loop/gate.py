"""The teacher-lead gate: does the policy with its teacher context still know better than without?

A probe draws one completion a problem from its teacher context. Both pass rates are read on the probed problems
only: a problem without context has no teacher that could lead. A step's learning rate is scaled by the lead of
running means, and a problem is masked when its probe fails although the student often passes: there the
memory misleads. Rollouts with `infra_error` count neither way (Law 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pmd.services.common.wire import Outcome

KEEP = 0.8
"""Share of a running mean that survives a step."""
GAIN = 3.0
"""A lead of a third is worth the whole learning rate."""
KNOWS = 0.25
"""Share of a student's rollouts that must pass for its problem to be masked: 2 of 8."""


Tally = Mapping[str, Sequence[int]]
"""Passed and judged rollouts by problem."""


@dataclass(frozen=True)
class Lead:
    """The gate's reading after a step."""

    teacher: float
    """Running mean of the probes' pass rate."""
    student: float
    """Running mean of the student's pass rate on the probed problems."""
    lr_scale: float


def tally(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Passed and judged rollouts by problem, from the rows of a VERDICTS artifact."""
    counts: dict[str, list[int]] = {}
    for row in verdicts:
        count = counts.setdefault(row["problem_id"], [0, 0])
        count[0] += row["outcome"] == Outcome.PASSED
        count[1] += row["outcome"] != Outcome.INFRA_ERROR
    return counts


def probe_prompts(contexts: Iterable[Mapping[str, Any]]) -> list[str]:
    """One prompt a problem to probe, its first that has context, from the rows of a CONTEXTS artifact."""
    first: dict[str, str] = {}
    for row in contexts:
        if row["has_context"]:
            first.setdefault(row["problem_id"], row["prompt_id"])
    return list(first.values())


OPEN = Lead(teacher=1.0, student=0.0, lr_scale=1.0)
"""The reading before any step. The means start at a full lead: an empty memory can't lead yet, and a gate that asked
it to would never let the first lessons through. Evidence closes the gate, a fifth a step."""


def follow(before: Lead, teacher_now: float, student_now: float) -> Lead:
    """The reading after one more step with these pass rates."""
    teacher = KEEP * before.teacher + (1 - KEEP) * teacher_now
    student = KEEP * before.student + (1 - KEEP) * student_now
    return Lead(teacher, student, min(max(GAIN * (teacher - student), 0.0), 1.0))


def _compared(student: Tally, probe: Tally) -> list[tuple[str, float, float]]:
    """(problem, probe's rate, student's rate) of the probed problems that were judged on both sides."""
    return [
        (problem, passed / judged, student[problem][0] / student[problem][1])
        for problem, (passed, judged) in probe.items()
        if judged and student.get(problem, (0, 0))[1]
    ]


def pass_rates(student: Tally, probe: Tally) -> tuple[float, float] | None:
    """The (teacher, student) pass rates of one step; None when no probed problem was judged."""
    compared = _compared(student, probe)
    if not compared:
        return None
    return sum(t for _, t, _ in compared) / len(compared), sum(s for _, _, s in compared) / len(compared)


def masked_problems(student: Tally, probe: Tally) -> tuple[str, ...]:
    """Problems whose probe failed although the student often passed."""
    return tuple(sorted(p for p, probed, alone in _compared(student, probe) if not probed and alone >= KNOWS))
