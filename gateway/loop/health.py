"""Health of learning: what each step says of it, and the rules that pause a run whose learning collapses.

Invariants:
- A sign is one number a step, read off what its phases recorded; what was not recorded is no sign, and never zero.
- A rule is for what lasts: it holds a run up when its sign is past its bound for `alarms.lasting_steps` steps without a
  break, and again at every further full count of them, so that a run which a person resumes goes on for as long.
- A rule watches over what was well: a bound that no step of the run has kept yet is not how this model is, and is not
  held against it. What is compared with the run's start has the median of the first `START` steps to go by.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pmd.gateway.loop.gate import Lead
from pmd.gateway.loop.state import PhaseName
from pmd.gateway.recipes.recipe import AlarmSettings
from pmd.services.common.requests import GenerateResult, TrainResult, VerifyResult
from pmd.services.common.wire import Outcome

START = 5
"""Steps whose median is what a run started with."""

Signs = Mapping[str, float]


def signs(results: Mapping[PhaseName, Mapping[str, Any]], gate: Lead | None = None) -> dict[str, float]:
    """Signs of the health of one step.

    Args:
        results: what its phases recorded.
        gate: reading of the teacher-lead gate after a step that was probed.

    Returns:
        Those that were recorded of: length (mean completion, in tokens), truncated_share (rollouts that ended by
        length), repetition (mean seq-rep-4), infra_error_share, masked_share (rollouts that the loss left out);
        grad_norm (before clipping, of steps that moved), entropy (of what was trained on, nats a token), mismatch_kl;
        lead (running mean of the teacher's pass rate minus the student's).
    """
    found: dict[str, float] = {}
    if PhaseName.ROLLOUT in results:
        drawn = GenerateResult.model_validate(results[PhaseName.ROLLOUT])
        if count := drawn.rollouts.rows:
            found |= {"length": drawn.tokens / count, "truncated_share": drawn.truncated / count}
        if drawn.repetition is not None:
            found["repetition"] = drawn.repetition
    if PhaseName.VERIFY in results:
        outcomes = VerifyResult.model_validate(results[PhaseName.VERIFY]).outcomes
        if judged := sum(outcomes.values()):
            found["infra_error_share"] = outcomes.get(Outcome.INFRA_ERROR, 0) / judged
    if PhaseName.TRAIN in results:
        trained = TrainResult.model_validate(results[PhaseName.TRAIN]).metrics
        if trained.get("sequences"):
            found["masked_share"] = trained.get("masked", 0.0) / trained["sequences"]
        if trained.get("tokens"):
            found |= {name: trained[name] for name in ("entropy", "mismatch_kl") if name in trained}
        if trained.get("grad_norm"):
            found["grad_norm"] = trained["grad_norm"]
    if gate is not None:
        found["lead"] = gate.teacher - gate.student
    return found


@dataclass(frozen=True)
class Rule:
    """A bound on one sign."""

    key: str
    """Of the recipe's `alarms`; also the kind of its alarm."""
    sign: str
    says: str
    """What it means for the bound to be passed, as the middle of a sentence."""
    advice: str
    within: Callable[[float, float, float], bool]
    """Whether a value keeps a bound, given what the run started with."""
    relative: bool = False
    """The bound is a multiple of what the run started with."""


def _most(value: float, bound: float, _: float) -> bool:
    return value <= bound


def _most_but_all(value: float, bound: float, _: float) -> bool:
    """Of steps that left out all rollouts `alarms.idle_steps` tells."""
    return value <= bound or value == 1.0


def _least(value: float, bound: float, _: float) -> bool:
    return value >= bound


def _most_times(value: float, bound: float, start: float) -> bool:
    return value <= bound * start


def _times_either_way(value: float, bound: float, start: float) -> bool:
    return start / bound <= value <= bound * start


SLOWER = "lower optimizer.lr in a new recipe"

RULES = (
    Rule(
        "grad_norm_rise",
        "grad_norm",
        "the gradient has grown",
        f"{SLOWER}, or raise optimizer.warmup_steps",
        _most_times,
        relative=True,
    ),
    Rule(
        "entropy_floor",
        "entropy",
        "the policy has next to no entropy left: its rollouts of a problem are all alike, and nothing new is tried",
        f"{SLOWER}, or set objective.entropy_floor there",
        _least,
    ),
    Rule(
        "entropy_rise",
        "entropy",
        "the policy has grown noisy",
        SLOWER,
        _most_times,
        relative=True,
    ),
    Rule(
        "length_change",
        "length",
        "completions have changed in length",
        SLOWER,
        _times_either_way,
        relative=True,
    ),
    Rule(
        "truncated_share",
        "truncated_share",
        "completions do not end",
        f"raise sampling.max_tokens if they are worth it, else {SLOWER}",
        _most,
    ),
    Rule("repetition", "repetition", "completions repeat themselves", SLOWER, _most),
    Rule(
        "masked_share",
        "masked_share",
        "the loss leaves nearly all rollouts out",
        "`pmd memory explain` says what was left out of a context, and why",
        _most_but_all,
    ),
    Rule(
        "lead_floor",
        "lead",
        "the teacher's context makes answers worse",
        "look at what it shows with `pmd memory explain`, and ban what misleads",
        _least,
    ),
)


@dataclass(frozen=True)
class Crossing:
    """A rule that a run breaks."""

    rule: Rule
    value: float
    bound: float
    start: float
    steps: int
    """In a row, up to the newest."""

    @property
    def told(self) -> str:
        """Which rule, which value, which bound, and what to do."""
        held = f"{self.bound:g} times the {self.start:.3g} of its start" if self.rule.relative else f"{self.bound:g}"
        return (
            f"{self.rule.says}: {self.rule.sign} {self.value:.3g} for {self.steps} steps in a row"
            f" (alarms.{self.rule.key}: {held}); {self.rule.advice}"
        )


def streak(step: int, holds: Callable[[int], bool]) -> int:
    """For how many steps up to and with `step` it has held without a break."""
    lasted = 0
    while lasted < step and holds(step - lasted):
        lasted += 1
    return lasted


def full(lasted: int, patience: int | None) -> bool:
    """Whether what has lasted for so many steps has done so for another full `patience` of them; None: never."""
    return patience is not None and lasted % patience == 0


def crossings(history: Mapping[int, Signs], step: int, settings: AlarmSettings) -> Iterator[Crossing]:
    """The rules that `step` completes another `lasting_steps` of breaking.

    Args:
        history: signs of all steps from 1 to `step`.
    """
    patience = settings.lasting_steps
    if patience is None:
        return
    for rule in RULES:
        bound: float | None = getattr(settings, rule.key)
        first = [each[rule.sign] for at, each in sorted(history.items()) if at < step and rule.sign in each]
        if bound is None or len(first) < START:
            continue
        start = statistics.median(first[:START])

        def past(at: int, rule: Rule = rule, bound: float = bound, start: float = start) -> bool:
            value = history.get(at, {}).get(rule.sign)
            return value is not None and not rule.within(value, bound, start)

        if all(past(at) for at in range(1, step) if rule.sign in history.get(at, {})):
            continue  # it never kept it
        lasted = streak(step, past)
        if lasted and full(lasted, patience):
            yield Crossing(rule, history[step][rule.sign], bound, start, lasted)
