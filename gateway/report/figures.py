"""The numbers of a report, from a `ReportView`: what terminal and page draw, computed once.

Invariants: pure functions; a value that was not recorded is left out, never drawn as zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pmd.gateway.loop.phases import PHASE_GROUPS, group_seconds
from pmd.gateway.report.units import training
from pmd.gateway.views import ReportView, StepView
from pmd.services.common.requests import SplitScore

Curve = Sequence[tuple[float, float]]

OUTCOMES = ("passed", "failed", "format", "timeout", "memory", "output_limit", "infra_error")


@dataclass(frozen=True)
class Change:
    """A split's accuracy before the first step and after the last evaluated one."""

    split: str
    first: SplitScore
    last: SplitScore
    last_step: int

    @property
    def before(self) -> float:
        """avg@n of the first evaluation."""
        return self.first.pass_rate

    @property
    def after(self) -> float:
        """avg@n of the last one."""
        return self.last.pass_rate

    @property
    def problems(self) -> int:
        """Problems of the last one."""
        return self.last.problems

    @property
    def samples(self) -> int:
        """Rollouts per problem."""
        return round(self.last.rollouts / self.last.problems) if self.last.problems else 0

    @property
    def margin(self) -> float:
        """Half of a 95 % interval of the change, for other problems of the same kind. Those of before are taken for
        others than those of after; they are the same, which makes it too wide rather than too narrow."""
        return float(1.96 * sum(map(_variance, (self.first, self.last))) ** 0.5)

    @property
    def said(self) -> str:
        """The change in points, how much of it chance may be, and from how many answers that is known."""
        change = 100 * (self.after - self.before)
        told = "" if abs(change) > 100 * self.margin else ", which chance alone may be"
        answers = f"{self.problems} problem{'s' * (self.problems != 1)} x {self.samples}"
        return f"{change:+.0f} ± {100 * self.margin:.0f} points{told} ({answers})"


def _variance(score: SplitScore) -> float:
    """Variance of a pass rate: that of a mean over problems, which pass@2 lets us see, as n answers to one of them say
    less than answers to n; at least that of so many answers, one more of them right and one more wrong."""
    answers = max(1, score.rollouts)
    rate = (answers * score.pass_rate + 1) / (answers + 2)
    least = rate * (1 - rate) / answers
    if score.problems < 2 or 2 not in score.pass_at:
        return least
    failed, twice = 1 - score.pass_rate, 1 - score.pass_at[2]
    samples = score.rollouts / score.problems
    return max(least, (twice - failed**2 + (failed - twice) / samples) / (score.problems - 1))


def splits(report: ReportView) -> list[str]:
    """Evaluated splits, in the order of their first appearance."""
    return list(dict.fromkeys(split for step in report.steps for split in step.evaluation))


def changes(report: ReportView) -> list[Change]:
    """First and last evaluation of each split."""
    found = []
    for split in splits(report):
        evaluated = [s for s in report.steps if split in s.evaluation]
        first, last = evaluated[0].evaluation[split], evaluated[-1].evaluation[split]
        found.append(Change(split, first, last, evaluated[-1].step))
    return found


def pass_at(report: ReportView, split: str) -> dict[str, Curve]:
    """pass@k by k, of the first and the last evaluation."""
    evaluated = [s.evaluation[split].pass_at for s in report.steps if split in s.evaluation]
    if not evaluated:
        return {}
    return {"before": sorted(evaluated[0].items()), "after": sorted(evaluated[-1].items())}


def series(report: ReportView, value: Callable[[StepView], float | None]) -> Curve:
    """`value` by step, where it was recorded."""
    return [(step.step, found) for step in report.steps if (found := value(step)) is not None]


def train_rate(report: ReportView) -> Curve:
    """Share of training rollouts that passed."""
    return series(report, lambda step: step.pass_rate)


def probe_rate(report: ReportView) -> Curve:
    """The same of the policy that reads its teacher context."""
    return series(report, lambda step: step.probe_pass_rate)


def memory_growth(report: ReportView) -> dict[str, Curve]:
    """Items by level and step, for levels that ever held one."""
    curves = {
        level: series(report, lambda step, level=level: getattr(step.memory, level) if step.memory else None)  # type: ignore[misc]
        for level in ("experience", "insight", "behavior")
    }
    return {level: curve for level, curve in curves.items() if any(count for _, count in curve)}


def memory_counts(report: ReportView) -> dict[str, int]:
    """Items by level at the end."""
    return {level: int(curve[-1][1]) for level, curve in memory_growth(report).items()}


def notes(report: ReportView) -> str:
    """What became of the answers of the model that writes notes, in a line; empty where none was asked."""
    counted: Counter[str] = Counter()
    for step in report.steps:
        counted.update(step.notes)
    if not counted["asked"]:
        return ""
    said = [f"{counted['asked']} asked for"]
    said += [f"{counted[word]} {word}" for word in ("refused", "unusable") if counted[word]]
    dropped = [(why.removeprefix("dropped: "), count) for why, count in counted.most_common() if ": " in why]
    if dropped:
        said.append("not kept: " + ", ".join(f"{count} {why}" for why, count in dropped))
    if counted["judged"]:
        said.append(f"{counted['judged']} pairs of notes judged, {counted['apart']} kept apart")
    return "; ".join(said)


def start(report: ReportView) -> str:
    """The bank that the run began with, in a line; empty where it began with an empty one."""
    bank = report.start
    if bank is None:
        return ""
    said = [f"bank of run {bank.origin}" if bank.origin else "a bank"]
    said += [f"model {bank.model}"] if bank.model else []
    said += [f"seq {bank.seq}"] if bank.seq is not None else []
    held = ", ".join(f"{count} {level}s" for level, count in bank.items.items())
    return f"{', '.join(said)}: {held or 'empty'}; sha256 {bank.sha256[:12]}"


@dataclass(frozen=True)
class Worth:
    """What the bank that a run began with does to the base model's accuracy on a split, before the first step."""

    split: str
    without: float
    with_bank: float


def start_worth(report: ReportView) -> list[Worth]:
    """By split; empty where it was not measured."""
    first = next((step for step in report.steps if step.with_memory), None)
    if first is None:
        return []
    return [
        Worth(split, first.evaluation[split].pass_rate, score.pass_rate)
        for split, score in first.with_memory.items()
        if split in first.evaluation
    ]


def memory_events(report: ReportView) -> list[str]:
    """What people did to the memory, a line each kind of act."""
    edited = [event for event in report.memory_events if event.edits]
    lines = []
    if edited:
        steps = sorted({event.step for event in edited if event.step is not None})
        where = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps, {steps[0]} to {steps[-1]}"
        total = sum(event.edits for event in edited)
        lines.append(f"{total} change{'' if total == 1 else 's'} by people took effect in {where}")
    for event in report.memory_events:
        if event.deleted_by is not None:
            lines.append(f"{event.deleted_by} deleted the bank while the run was {event.while_status}")
    return lines


HEALTH = ("grad_norm", "entropy", "length", "repetition", "truncated_share", "masked_share")


def health(report: ReportView) -> dict[str, Curve]:
    """Signs of the health of learning by step; those that were never more than zero are left out."""
    curves = {sign: series(report, lambda step, sign=sign: step.health.get(sign)) for sign in HEALTH}  # type: ignore[misc]
    return {sign: curve for sign, curve in curves.items() if any(value for _, value in curve)}


def phase_seconds(report: ReportView) -> Mapping[str, Curve]:
    """Seconds by group of phases and step; groups that never ran are left out."""
    grouped: dict[str, list[tuple[float, float]]] = {}
    for step in report.steps:
        for group, spent in group_seconds(step.seconds).items():
            grouped.setdefault(group, []).append((step.step, spent))
    return {group: grouped[group] for group in dict.fromkeys([*PHASE_GROUPS, *grouped]) if group in grouped}


def outcomes(report: ReportView) -> Mapping[str, Curve]:
    """Share of training rollouts by outcome and step; outcomes that never occurred are left out."""
    shares: dict[str, list[tuple[float, float]]] = {}
    for step in report.steps:
        total = sum(step.outcomes.values())
        for outcome in OUTCOMES:
            if count := step.outcomes.get(outcome, 0):
                shares.setdefault(outcome, []).append((step.step, count / total))
    return shares


def rollouts(report: ReportView) -> int:
    """Training rollouts drawn."""
    return sum(sum(step.outcomes.values()) for step in report.steps)


def seconds(report: ReportView) -> float:
    """Wall-clock time of the run, from its creation to its last change."""
    return max(0.0, report.run.updated - report.run.created)


def last_update(report: ReportView) -> str:
    """The numbers of the last training step in one line; empty when none was recorded."""
    return training(next((step.train for step in reversed(report.steps) if step.train), {}))


def differences(reports: Sequence[ReportView]) -> list[tuple[str, list[str]]]:
    """Recipe keys whose values differ between runs, with each run's value."""
    flat = [dict(_flatten(report.recipe)) for report in reports]
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [(key, [str(each.get(key, "–")) for each in flat]) for key in keys if not key.startswith("prompts.")]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
