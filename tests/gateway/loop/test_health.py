"""A run whose learning collapses is paused with its reason, keeps its best version, and goes on when told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pmd.gateway.api.history import latest_view, step_views
from pmd.gateway.loop.alarms import alarms as raised_by
from pmd.gateway.loop.gate import Lead
from pmd.gateway.loop.health import RULES, crossings, signs
from pmd.gateway.loop.requests import superseded
from pmd.gateway.loop.state import PhaseName
from pmd.gateway.recipes.recipe import AlarmSettings, Recipe
from pmd.gateway.registry.registry import Registry
from pmd.services.common.artifacts import local_path
from pmd.services.common.requests import GenerateResult, TrainResult, VerifyResult
from pmd.services.common.wire import Outcome, Ref, Weights
from tests.gateway.fakes import Fakes, status

Make = Callable[..., Recipe]
Start = Callable[..., str]
Drive = Callable[..., int]

WELL = {
    "length": 60.0,
    "truncated_share": 0.02,
    "repetition": 0.1,
    "masked_share": 0.3,
    "grad_norm": 0.5,
    "entropy": 0.2,
    "lead": 0.4,
}
COLLAPSES = {
    "grad_norm_rise": {"grad_norm": 60.0},
    "entropy_floor": {"entropy": 1e-7},
    "entropy_rise": {"entropy": 3.0},
    "length_change": {"length": 5.0},
    "truncated_share": {"truncated_share": 0.9},
    "repetition": {"repetition": 0.95},
    "masked_share": {"masked_share": 0.99},
    "lead_floor": {"lead": -0.4},
}
"""What of a step shows each collapse."""

LASTING = AlarmSettings().lasting_steps or 0


def broken(history: dict[int, dict[str, float]], **settings: Any) -> dict[int, list[str]]:
    """The rules that are broken, by step."""
    told = {
        step: [
            c.rule.key
            for c in crossings({s: history[s] for s in history if s <= step}, step, AlarmSettings(**settings))
        ]
        for step in history
    }
    return {step: keys for step, keys in told.items() if keys}


def after(well: int, steps: int, **collapse: float) -> dict[int, dict[str, float]]:
    return {step: WELL | (collapse if step > well else {}) for step in range(1, steps + 1)}


def test_every_rule_has_a_bound_in_the_recipe_and_a_planted_collapse_here() -> None:
    assert {rule.key for rule in RULES} == set(COLLAPSES) < set(AlarmSettings.model_fields)


@pytest.mark.parametrize("rule", COLLAPSES)
def test_a_collapse_breaks_its_rule_by_default_once_it_lasts_and_at_every_full_count(rule: str) -> None:
    history = after(10, 16, **COLLAPSES[rule])
    assert broken(history) == {10 + LASTING: [rule], 10 + 2 * LASTING: [rule]}
    assert broken(history, **{rule: None}) == broken(history, lasting_steps=None) == {}


def test_what_fares_well_or_recovers_in_time_breaks_nothing() -> None:
    assert broken(after(50, 50)) == {}
    for collapse in COLLAPSES.values():
        history = after(50, 20)
        for step in range(10, 10 + LASTING - 1):
            history[step] = WELL | collapse
        assert broken(history) == {}


@pytest.mark.parametrize("rule", ["truncated_share", "repetition", "masked_share", "entropy_floor", "lead_floor"])
def test_a_run_that_never_kept_a_bound_is_not_held_to_it(rule: str) -> None:
    """As that of a base model which ends no completion. Once it has kept it, it is."""
    history = after(0, 12, **COLLAPSES[rule])
    assert broken(history) == {}
    history[6] = WELL
    assert list(broken(history)) == [6 + LASTING, 6 + 2 * LASTING]


def test_completions_may_not_grow_out_of_measure_either() -> None:
    assert list(broken(after(5, 8, length=700.0))) == [8]


def test_a_step_that_did_not_measure_a_sign_breaks_a_streak() -> None:
    history = after(5, 10, entropy=1e-9)
    del history[7]["entropy"]
    assert list(broken(history)) == [10]


def test_the_sentence_names_rule_value_bound_and_what_to_do() -> None:
    (repeated,) = crossings(after(5, 8, repetition=0.95), 8, AlarmSettings(repetition=0.5))
    assert repeated.told.startswith("completions repeat themselves: repetition 0.95 for 3 steps in a row")
    assert "(alarms.repetition: 0.5)" in repeated.told
    assert "lower optimizer.lr" in repeated.told
    (grown,) = crossings(after(5, 8, grad_norm=90.0), 8, AlarmSettings())
    assert "alarms.grad_norm_rise: 100 times the 0.5 of its start" in grown.told


def test_signs_are_shares_of_what_was_drawn_and_what_was_not_recorded_is_none() -> None:
    ref = Ref(uri="", sha256="", bytes=1, rows=8)
    weights = Weights(version=1, uri="", sha256="")
    trained = {"sequences": 8.0, "masked": 6.0, "tokens": 40.0, "entropy": 0.3, "grad_norm": 0.7, "mismatch_kl": 1e-9}
    outcomes = {Outcome.PASSED: 5, Outcome.INFRA_ERROR: 3}
    results = {
        PhaseName.ROLLOUT: GenerateResult(rollouts=ref, tokens=80, truncated=2, repetition=0.25),
        PhaseName.VERIFY: VerifyResult(verdicts=ref, outcomes=outcomes, splits={}),
        PhaseName.TRAIN: TrainResult(weights=weights, metrics=trained),
    }
    read = {name: result.model_dump(mode="json") for name, result in results.items()}
    assert signs(read, Lead(teacher=0.5, student=0.75, lr_scale=0.0)) == {
        "length": 10.0,
        "truncated_share": 0.25,
        "repetition": 0.25,
        "infra_error_share": 0.375,
        "masked_share": 0.75,
        "entropy": 0.3,
        "mismatch_kl": 1e-9,
        "grad_norm": 0.7,
        "lead": -0.25,
    }
    idle = TrainResult(weights=weights, metrics={"tokens": 0.0, "entropy": 0.0, "grad_norm": 0.0})
    assert signs({PhaseName.TRAIN: idle.model_dump(mode="json")}) == {}


def test_a_planted_collapse_pauses_the_run_keeps_its_best_version_and_a_resume_goes_on(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    """Through the controller: the policy is best at step 4, and from step 6 on it answers by repeating itself."""
    fakes.metrics = {"loss": 0.5, "grad_norm": 0.5, "lr": 1e-3, "tokens": 9.0, "sequences": 8.0, "entropy": 0.2}
    fakes.drawn = lambda version: {"repetition": 0.9 if version >= 5 else 0.1}
    good = {"test-0", "test-1", "unseen-0"}
    evaluated: list[str] = []

    def passing(prompt: str, rollout: str) -> bool:
        if prompt.startswith("train"):
            return rollout.endswith("#0")
        evaluated.append(prompt)
        return prompt in good and (len(evaluated) - 1) // 8 == 2  # four problems, two answers: the third evaluation

    fakes.passing = passing
    run = start(recipe(schedule={"steps": 12, "keep_weights": 0}, evaluation={"every": 2, "samples": 2}))
    drive(run)
    view = registry.run(run)
    assert view["status"] == "paused"
    assert view["error"] == (
        "step 8: completions repeat themselves: repetition 0.9 for 3 steps in a row (alarms.repetition: 0.6); lower"
        " optimizer.lr in a new recipe. The best version that was evaluated is 4 (75.0%):"
        " `pmd export demo-1 --step 4 --to FOLDER`"
    )
    state, _ = registry.state(run)
    assert superseded(state, 8) == (1, 2, 3, 5, 6)
    weights = state.records[4, PhaseName.TRAIN].result["weights"]
    assert (local_path(weights["uri"]) / "model.safetensors").exists()
    assert step_views(state)[-1].health["repetition"] == 0.9
    assert latest_view(registry.latest(run)).health["masked_share"] == 0.0

    registry.ask(run, "run")
    drive(run)
    assert registry.run(run)["error"].startswith("step 11: completions repeat themselves: repetition 0.9 for 6 steps")
    registry.ask(run, "run")
    drive(run)
    assert status(registry, run) == "succeeded"


def test_a_run_without_a_collapse_is_not_paused(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    fakes.metrics = {"loss": 0.5, "grad_norm": 0.5, "lr": 1e-3, "tokens": 9.0, "sequences": 8.0, "entropy": 0.2}
    fakes.drawn = lambda _: {"repetition": 0.3}
    fakes.measured = lambda step: {"entropy": 0.2 / step, "grad_norm": 0.5 * step}
    run = start(recipe(schedule={"steps": 9}))
    drive(run)
    assert status(registry, run) == "succeeded"


class Counted(dict[Any, Any]):
    """Records that count how often all of them are walked over."""

    walks = 0

    def items(self) -> Any:
        self.walks += 1
        return super().items()


@pytest.mark.parametrize("alarms", [{}, {"lasting_steps": None}, {rule.key: None for rule in RULES}])
def test_what_a_run_recorded_is_walked_over_once_a_step_and_only_where_a_rule_asks(
    alarms: dict[str, None], recipe: Make, start: Start, drive: Drive, registry: Registry
) -> None:
    run = start(recipe(alarms=alarms, schedule={"steps": 4}))
    drive(run)
    state, _ = registry.state(run)
    counted = Counted(state.records)
    raised_by(replace(state, records=counted), 4, PhaseName.TRAIN)
    assert counted.walks == (0 if alarms else 1)
