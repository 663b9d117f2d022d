"""Belief by effect: what a note does to the rewards of the attempts that read it.

A note that is written in prose can't be checked by its words. It can be tried: contexts show it or hold it out by
chance, and each is followed by a probe. Rewards with the note and rewards without it are two arms; each arm's mean has
a Beta posterior, and the effect is their difference.

- The prior of both arms is the same, so a note of which nothing is known does nothing: `belief` is 1/2. Its mean is how
  often attempts at the same problems passed in the same steps that read no memory at all, so that a note which is
  always shown is measured too: against those.
- A note is believed per problem. What it did elsewhere counts for at most `ELSEWHERE` trials an arm, so an exception
  is learnt where it occurs.
- Only the hold-out is random. What is measured against attempts without memory is the whole context's doing, and each
  of its notes gets the credit until chance has held one of them out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betainc, betaincinv

from pmd.services.memory.evidence.beliefs import BELIEVED
from pmd.services.memory.ledger.reads import Trials

PRIOR_TRIALS = 2.0
"""What the prior of an arm is worth."""
ELSEWHERE = 2.0
"""Most trials an arm that other problems may add to a problem's own."""
TESTED = 4
"""Trials with a note below which it is shown with a bounded chance only."""
UNTESTED_HOLD_OUT = 0.25
"""Chance that a note which was not tested yet is held out."""
MIN_TRIALS = 8
"""Fewer trials of either arm condemn nothing."""

_EDGES = np.linspace(0.0, 1.0, 257)
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2


@dataclass(frozen=True)
class Arm:
    """Trials, and the sum of their rewards, each in [0, 1]."""

    trials: float = 0.0
    rewards: float = 0.0

    def __add__(self, other: Arm) -> Arm:
        return Arm(self.trials + other.trials, self.rewards + other.rewards)

    def worth(self, trials: float) -> Arm:
        """The same rate on at most so many trials."""
        share = min(1.0, trials / self.trials) if self.trials else 1.0
        return Arm(self.trials * share, self.rewards * share)


@dataclass(frozen=True)
class Outcomes:
    """What followed a note at a problem, or at several."""

    shown: Arm = Arm()
    held_out: Arm = Arm()
    base: Arm = Arm()
    """The trials of both arms with the rate of attempts that read no memory, at the same problems in the same steps."""

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.shown + other.shown, self.held_out + other.held_out, self.base + other.base)

    def worth(self, trials: float) -> Outcomes:
        """The same rates on at most so many trials an arm."""
        return Outcomes(self.shown.worth(trials), self.held_out.worth(trials), self.base.worth(2 * trials))


@dataclass(frozen=True)
class Effect:
    """The effect of a note on the reward, in [-1, 1], as a posterior."""

    outcomes: Outcomes

    @property
    def _arms(self) -> tuple[Arm, Arm]:
        return self.outcomes.shown, self.outcomes.held_out

    @property
    def mean(self) -> float:
        """Posterior mean."""
        p, q = (_mean(_posterior(arm)) for arm in self._arms)
        return p - q

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval: the arms' own quantiles, combined by the method of variance estimates recovery (Zou and
        Donner 2008). It holds against what chance held out alone: the prior is Jeffreys', so it covers large effects
        too."""
        (low_p, p, high_p), (low_q, q, high_q) = (_quantiles(_posterior(arm)) for arm in self._arms)
        return p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q)

    @cached_property
    def belief(self) -> float:
        """Probability that the note raises the reward; 1/2 when nothing is known."""
        if not any(arm.trials for arm in self._arms):
            return 0.5
        base = self.outcomes.base
        rate = (base.rewards + 1.0) / (base.trials + 2.0)
        prior = Arm(PRIOR_TRIALS, PRIOR_TRIALS * rate)
        shown, held_out = ((a.rewards, a.trials - a.rewards) for a in (prior + arm for arm in self._arms))
        mass = np.diff(betainc(*shown, _EDGES))
        return float(mass @ betainc(*held_out, _CENTRES))

    @property
    def tested(self) -> bool:
        """Whether it was read often enough to say anything."""
        return self.outcomes.shown.trials >= TESTED

    @property
    def credibility(self) -> float:
        """`belief`, but enough to be shown until the note was tested: little follows from two unlucky trials, and a
        note that is shown no more is never tested again."""
        return self.belief if self.tested else max(self.belief, BELIEVED)

    @property
    def harmful(self) -> bool:
        """Whether it lowers the reward beyond reasonable doubt, by what chance held out."""
        fewest = min(self.outcomes.shown.trials, self.outcomes.held_out.trials)
        return fewest >= MIN_TRIALS and self.interval[1] < 0

    def __str__(self) -> str:
        shown, held = self.outcomes.shown, self.outcomes.held_out
        read = f"reward {shown.rewards / shown.trials:.2f} in {shown.trials:g} trials with it" if shown.trials else ""
        unread = f"{held.rewards / held.trials:.2f} in {held.trials:g} without" if held.trials else ""
        return ", ".join(part for part in (read, unread) if part) or "not tried yet"


def gather(trials: Iterable[Trials]) -> dict[str, dict[str, Outcomes]]:
    """Outcomes by item, by problem."""
    found: dict[str, dict[str, Outcomes]] = defaultdict(lambda: defaultdict(Outcomes))
    for one in trials:
        arm, base = Arm(one.trials, one.rewards), Arm(one.base_trials, one.base_rewards)
        found[one.item_id][one.problem_id] += Outcomes(base=base, **{"shown" if one.shown else "held_out": arm})
    return {item_id: dict(by_problem) for item_id, by_problem in found.items()}


def effect_at(problem_id: str, outcomes: Mapping[str, Outcomes]) -> Effect:
    """The effect of a note at one problem.

    Args:
        outcomes: of the note, by problem.
    """
    own = outcomes.get(problem_id, Outcomes())
    elsewhere = sum((found for pid, found in outcomes.items() if pid != problem_id), Outcomes())
    return Effect(own + elsewhere.worth(ELSEWHERE))


def effect(outcomes: Mapping[str, Outcomes]) -> Effect:
    """The effect of a note over all problems that it was tried at."""
    return Effect(sum(outcomes.values(), Outcomes()))


def _posterior(arm: Arm) -> tuple[float, float]:
    """Parameters of the Beta posterior of an arm's mean on Jeffreys' prior."""
    return arm.rewards + 0.5, arm.trials - arm.rewards + 0.5


def _mean(beta: tuple[float, float]) -> float:
    return beta[0] / (beta[0] + beta[1])


def _quantiles(beta: tuple[float, float]) -> tuple[float, float, float]:
    """2.5 %, mean, 97.5 %."""
    low, high = betaincinv(*beta, np.array([0.025, 0.975]))
    return float(low), _mean(beta), float(high)
