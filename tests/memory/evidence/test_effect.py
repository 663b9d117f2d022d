"""Belief by effect: planted effects are found, intervals cover the truth, and nothing is condemned on little."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pmd.services.memory.evidence.beliefs import BELIEVED
from pmd.services.memory.evidence.effect import Arm, Effect, Outcomes, effect, effect_at, gather
from pmd.services.memory.ledger.reads import Trials


def tried(rng: np.random.Generator, with_it: float, without: float, trials: int, hold_out: float = 0.25) -> Effect:
    """What is known of a note after so many trials at problems of different difficulty."""
    harder = rng.uniform(-0.1, 0.1, trials)
    shown = rng.random(trials) >= hold_out
    passed = rng.random(trials) < np.where(shown, with_it, without) + harder
    return Effect(
        Outcomes(
            Arm(float(shown.sum()), float(passed[shown].sum())),
            Arm(float((~shown).sum()), float(passed[~shown].sum())),
            Arm(trials, float((without + harder).sum())),
        )
    )


@pytest.mark.parametrize(
    ("with_it", "without"),
    [(0.8, 0.2), (0.5, 0.3), (0.5, 0.5), (0.2, 0.2), (0.3, 0.7), (0.1, 0.3)],
    ids=["helps much", "helps", "does nothing", "does nothing, hard", "harms much", "harms"],
)
@pytest.mark.parametrize("trials", [24, 80])
def test_a_95_percent_interval_covers_a_planted_effect_as_often_as_it_says(
    with_it: float, without: float, trials: int
) -> None:
    rng = np.random.default_rng(0)
    runs = 600
    covered = 0
    for _ in range(runs):
        low, high = tried(rng, with_it, without, trials).interval
        covered += low <= with_it - without <= high
    assert 0.92 <= covered / runs <= 0.985


def test_beliefs_follow_planted_effects() -> None:
    rng = np.random.default_rng(1)
    helps = [tried(rng, 0.7, 0.3, 30).belief for _ in range(60)]
    harms = [tried(rng, 0.2, 0.6, 30).belief for _ in range(60)]
    nothing = [tried(rng, 0.4, 0.4, 30).belief for _ in range(200)]
    assert sum(b >= BELIEVED for b in helps) >= 56
    assert sum(b < BELIEVED for b in harms) >= 57
    assert 0.4 < sum(nothing) / len(nothing) < 0.6
    assert Effect(Outcomes()).belief == 0.5


def test_the_interval_also_covers_when_a_note_that_is_not_believed_is_not_shown_any_more() -> None:
    """As the product does: an untested note is held out more often, and one that lost its belief is not tried."""
    rng = random.Random(2)
    covered, runs = 0, 100
    for _ in range(runs):
        shown, held_out, base = Arm(), Arm(), Arm()
        for _ in range(40):
            known = Effect(Outcomes(shown, held_out, base))
            if known.belief < BELIEVED:
                break
            base += Arm(1, 0.4)
            reward = Arm(1, float(rng.random() < 0.4))
            if rng.random() < (0.1 if known.tested else 0.25):
                held_out += reward
            else:
                shown += reward
        low, high = Effect(Outcomes(shown, held_out, base)).interval
        covered += low <= 0.0 <= high
    assert covered / runs >= 0.92


def test_a_note_that_is_always_shown_is_measured_against_attempts_without_memory() -> None:
    helps = Effect(Outcomes(shown=Arm(6, 5.0), base=Arm(6, 0.6)))
    harms = Effect(Outcomes(shown=Arm(6, 0.0), base=Arm(6, 4.8)))
    assert harms.belief < BELIEVED < 0.9 < helps.belief
    low, high = harms.interval
    assert low < 0 < high, "nothing was held out by chance, so the interval says little"


def test_an_exception_is_learnt_where_it_occurs() -> None:
    outcomes = {
        "elsewhere": Outcomes(Arm(40, 36.0), Arm(10, 1.0), Arm(50, 5.0)),
        "here": Outcomes(Arm(6, 0.0), Arm(2, 2.0), Arm(8, 6.0)),
    }
    assert effect(outcomes).belief > 0.99
    assert effect_at("elsewhere", outcomes).belief > 0.99
    assert effect_at("here", outcomes).belief < BELIEVED
    assert effect_at("new", outcomes).belief > 0.8, "what it did elsewhere counts a little"


def test_few_or_equal_trials_condemn_nothing() -> None:
    few = Effect(Outcomes(Arm(7, 0.0), Arm(7, 7.0), Arm(14, 7.0)))
    enough = Effect(Outcomes(Arm(8, 0.0), Arm(8, 8.0), Arm(16, 8.0)))
    equal = Effect(Outcomes(Arm(50, 50.0), Arm(50, 50.0), Arm(100, 100.0)))
    assert (few.harmful, enough.harmful, equal.harmful) == (False, True, False)
    assert equal.interval[0] < 0 < equal.interval[1], "fifty of fifty is not certainty"


def test_trials_are_gathered_by_item_and_problem() -> None:
    found = gather(
        [
            Trials("a", "p", True, 3, 2.0, 3, 0.5),
            Trials("a", "p", False, 1, 0.0, 1, 0.25),
            Trials("a", "q", True, 1, 1.0, 0, 0),
        ]
    )
    assert found == {"a": {"p": Outcomes(Arm(3, 2.0), Arm(1, 0.0), Arm(4, 0.75)), "q": Outcomes(shown=Arm(1, 1.0))}}
    assert str(effect_at("p", found["a"])) == "reward 0.75 in 4 trials with it, 0.00 in 1 without"
