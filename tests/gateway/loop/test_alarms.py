"""Nothing fails in silence: what a run recorded that people should hear of is said, and the grave of it pauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pmd.gateway.api.history import latest_view, run_view
from pmd.gateway.disk import GIB, free_bytes
from pmd.gateway.loop.alarms import alarms, at_the_end
from pmd.gateway.loop.plan import next_phases, step_plan
from pmd.gateway.loop.state import PhaseName, Record, RunState
from pmd.gateway.recipes.recipe import AlarmSettings, Recipe
from pmd.gateway.registry.registry import Registry
from pmd.gateway.views import RunStatus
from pmd.services.common.requests import (
    GenerateResult,
    RetrieveResult,
    SplitScore,
    TrainRequest,
    TrainResult,
    VerifyResult,
)
from pmd.services.common.wire import Outcome
from tests.gateway.controller.test_advance import weights
from tests.gateway.fakes import Fakes, status
from tests.gateway.loop.playing import INPUTS, answer, ref

Make = Callable[..., Recipe]
Start = Callable[..., str]
Drive = Callable[..., int]

FINE = {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "tokens": 9.0, "sequences": 8.0, "masked": 0.0, "skipped": 0.0}
IDLE = FINE | {"tokens": 0.0, "masked": 8.0, "grad_norm": 0.0, "loss": 0.0}


def verdicts(passed: int, infra: int = 0, rate: float = 0.5) -> dict[str, Any]:
    outcomes = {Outcome.PASSED: passed, Outcome.FAILED: 8 - passed - infra, Outcome.INFRA_ERROR: infra}
    score = SplitScore(problems=1, rollouts=8, pass_rate=rate, pass_at={})
    return VerifyResult(verdicts=ref("v"), outcomes=outcomes, splits={"test": score}).model_dump(mode="json")


def played(
    recipe: Recipe,
    trained: Callable[[int], dict[str, float]] = lambda _: FINE,
    verified: Callable[[int], dict[str, Any]] = lambda _: verdicts(4),
    scored: Callable[[int], dict[str, Any]] = lambda step: verdicts(4, rate=0.1 + step / 100),
) -> dict[int, list[str]]:
    """The alarms of each step of a run, `kind` or `kind!` where it pauses, and at -1 those of its end."""
    state, said = RunState("demo-1", recipe, INPUTS), {}
    while phases := next_phases(state):
        for phase in phases:
            result = answer(phase.request, f"{phase.step}.{phase.name}").model_dump(mode="json")
            if phase.name is PhaseName.TRAIN:
                result["metrics"] = trained(phase.step)
            if phase.name is PhaseName.VERIFY:
                result = verified(phase.step)
            if phase.name is PhaseName.EVALUATE_VERIFY:
                result = scored(phase.step)
            state = state.with_record(phase.step, phase.name, Record(result))
            said.setdefault(phase.step, []).extend(
                alarm.kind + "!" * alarm.pauses for alarm in alarms(state, phase.step, phase.name)
            )
    said[-1] = [alarm.kind for alarm in at_the_end(state)]
    return {step: kinds for step, kinds in said.items() if kinds}


def steps(count: int, **alarms: Any) -> dict[str, Any]:
    return {"schedule": {"steps": count}, "alarms": alarms, "method": "sdpo"}


def test_a_run_that_fares_well_raises_nothing(recipe: Make) -> None:
    assert played(recipe(**steps(12))) == {}


def test_steps_that_had_nothing_to_learn_from_pause_at_every_full_count(recipe: Make) -> None:
    said = played(recipe(**steps(6, idle_steps=3)), lambda step: FINE if step == 1 else IDLE)
    assert said == {2: ["idle"], 3: ["idle"], 4: ["idle!"], 5: ["idle"], 6: ["idle"]}
    assert not [
        k for kinds in played(recipe(**steps(6, idle_steps=None)), lambda _: IDLE).values() for k in kinds if "!" in k
    ]


@pytest.mark.parametrize(
    ("step", "with_context", "why"),
    [
        (1, 0, ": memory begins empty, and contexts show what earlier steps wrote"),
        (2, 0, ": no rollout had a teacher context; `pmd memory explain` says"),
        (2, 3, ""),
    ],
)
def test_an_idle_step_says_why_where_no_teacher_knew_more(step: int, with_context: int, why: str, recipe: Make) -> None:
    found = {"contexts": ref("c"), "seq": 1, "with_context": with_context, "items_used": {}}
    state = RunState("demo-1", recipe(**steps(2)), INPUTS)
    for earlier in range(1, step + 1):
        state = state.with_record(earlier, PhaseName.VERIFY, Record(verdicts(4)))
        retrieved = RetrieveResult.model_validate(found).model_dump(mode="json")
        state = state.with_record(earlier, PhaseName.RETRIEVE, Record(retrieved))
        trained = TrainResult(weights=INPUTS.base, metrics=IDLE).model_dump(mode="json")
        state = state.with_record(earlier, PhaseName.TRAIN, Record(trained))
    (told,) = [alarm.message for alarm in alarms(state, step, PhaseName.TRAIN) if alarm.kind == "idle"]
    begins, _, after = told.partition(" had nothing to learn from (8 of 8 rollouts masked)")
    assert begins == {1: "the step", 2: "2 steps in a row"}[step]
    assert after.startswith(why)
    assert bool(after) == bool(why)


def test_a_step_whose_rollouts_all_passed_has_nothing_left_to_learn_and_pauses_nothing(recipe: Make) -> None:
    said = played(recipe(**steps(3, idle_steps=1)), lambda s: IDLE if s > 1 else FINE, lambda _: verdicts(8))
    assert said == {2: ["idle"], 3: ["idle"]}


def test_a_shut_gate_is_no_idle_step_but_a_run_that_it_shut_all_along_has_learnt_nothing(recipe: Make) -> None:
    shut = FINE | {"lr": 0.0, "grad_norm": 0.0}
    assert played(recipe(**steps(8)), lambda step: shut if step > 1 else FINE) == {}
    assert played(recipe(**steps(8)), lambda _: shut) == {-1: ["nothing_learnt"]}


def test_a_gradient_that_is_not_finite_is_told_and_pauses_when_it_lasts(recipe: Make) -> None:
    bad = {k: v for k, v in FINE.items() if k != "loss"} | {"skipped": 1.0, "grad_norm": 0.0}
    said = played(recipe(**steps(4)), lambda step: bad if step < 4 else FINE)
    assert said == {1: ["skipped"], 2: ["skipped"], 3: ["skipped!"]}
    assert played(recipe(**steps(2)), lambda _: bad)[-1] == ["nothing_learnt"]


@pytest.mark.parametrize(
    ("gap", "limit", "raised"),
    [(0.3, 0.05, True), (0.04, 0.05, False), (0.3, None, False), (1e-3, "auto", True), (1e-5, "auto", False)],
)
def test_law_13_a_sampler_that_is_not_the_trainer_pauses(gap: float, limit: Any, raised: bool, recipe: Make) -> None:
    said = played(recipe(**steps(1, mismatch_kl=limit)), lambda _: FINE | {"mismatch_kl": gap})
    assert said == ({1: ["mismatch!"]} if raised else {})


def mismatch(recipe: Recipe, gaps: dict[str, float], **drawn: Any) -> list[str]:
    """What is said of a first step whose gap by problem is `gaps`."""
    rollouts = GenerateResult(rollouts=ref("r"), tokens=1, truncated=0, **drawn).model_dump(mode="json")
    trained = answer(TrainRequest.model_construct(from_version=0, out="file:///w"), "1.train").model_dump(mode="json")
    trained |= {"metrics": FINE | {"mismatch_kl": sum(gaps.values()) / len(gaps)}, "mismatch": gaps}
    records = {(1, PhaseName.ROLLOUT): Record(rollouts), (1, PhaseName.TRAIN): Record(trained)}
    state = RunState("demo-1", recipe, INPUTS, records)
    return [alarm.message for alarm in alarms(state, 1, PhaseName.TRAIN) if alarm.kind == "mismatch"]


def test_law_13_the_replica_with_other_weights_is_named(recipe: Make) -> None:
    """Also where the others are so many that the batch as a whole looks right."""
    gaps = {f"p{n}": 1e-9 for n in range(40)} | {"q0": 2e-3, "q1": 1e-3}
    replicas = {"http://a:8701": tuple(f"p{n}" for n in range(40)), "http://b:8701": ("q0", "q1", "masked")}
    (said,) = mismatch(recipe(), gaps, dtype="float32", replicas=replicas)
    assert "http://b:8701 (0.0015)" in said
    assert "http://a" not in said
    assert "version 0" in said
    assert mismatch(recipe(), gaps | {"q0": 1e-5, "q1": 1e-5}, dtype="float32", replicas=replicas) == []


def test_the_bound_follows_the_precision_of_both_sides(recipe: Make) -> None:
    gaps = {"p": 2e-3}  # as bf16 has it
    assert mismatch(recipe(), gaps, dtype="float32") != []
    assert mismatch(recipe(), gaps, dtype="bfloat16") == []
    assert mismatch(recipe(hardware={"precision": "bf16"}), gaps, dtype="float32") == []
    assert mismatch(recipe(), {"p": 0.02}, dtype="bfloat16") != []


def test_law_5_rollouts_that_could_not_be_judged_are_told_and_too_many_pause(recipe: Make) -> None:
    said = played(recipe(**steps(3)), verified=lambda step: verdicts(1, infra={1: 0, 2: 4, 3: 7}[step]))
    assert said == {2: ["infra_error"], 3: ["infra_error!"]}


def test_no_answer_that_ever_passed_pauses_and_stands_at_the_end(recipe: Make) -> None:
    never = played(recipe(**steps(5, no_pass_steps=2)), verified=lambda _: verdicts(0))
    assert never == {2: ["no_pass!"], 4: ["no_pass!"], -1: ["no_pass"]}
    assert played(recipe(**steps(5, no_pass_steps=2)), verified=lambda step: verdicts(int(step == 1))) == {}


def test_an_accuracy_that_did_not_rise_is_said_at_the_end(recipe: Make) -> None:
    assert played(recipe(**steps(2)), scored=lambda _: verdicts(4, rate=0.5)) == {-1: ["no_rise"]}
    assert played(recipe(method="base"), scored=lambda _: verdicts(4, rate=0.5)) == {}


def test_a_disk_that_runs_full_is_said_once_a_step(recipe: Make) -> None:
    made = recipe(**steps(1))
    state = RunState("demo-1", made, INPUTS, {(0, PhaseName.PUBLISH): Record({})})
    first = step_plan(made, 0)[0]
    assert [a.kind for a in alarms(state, 0, first, free_bytes=GIB)] == ["disk"]
    assert alarms(state, 0, first, free_bytes=3 * GIB) == alarms(state, 0, first, free_bytes=None) == []
    assert free_bytes("s3://bucket/runs") is None
    assert (free_bytes("file:///no/such/folder") or 0) > 0


# ------------------------------------------------------------ through the controller


def view(registry: Registry, run: str) -> Any:
    return run_view(
        registry.run(run), alarms=registry.alarms([run]).get(run, []), latest=latest_view(registry.latest(run))
    )


def test_an_alarm_pauses_with_a_sentence_that_a_resume_takes_away(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    fakes.metrics = FINE | {"mismatch_kl": 0.3}
    run = start(recipe(schedule={"steps": 2}))
    drive(run)
    paused = view(registry, run)
    assert paused.status is RunStatus.PAUSED
    assert paused.error.startswith("step 1: sampler and trainer disagree by 0.3 nats a token")
    registry.ask(run, "run")
    assert view(registry, run).error is None
    drive(run)
    assert view(registry, run).error.startswith("step 2:")
    registry.ask(run, "run")
    drive(run)
    ended = view(registry, run)
    assert (ended.status, ended.error) == (RunStatus.SUCCEEDED, None)
    assert "step 2, 2 times so far: sampler and trainer disagree" in " ".join(ended.warnings)
    raised = [e.payload for e in registry.events(run) if e.type == "run.alarm" and e.payload["kind"] == "mismatch"]
    assert [(e["step"], e["pauses"]) for e in raised] == [(1, True), (2, True)]


def test_alarms_change_no_result(recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes) -> None:
    fakes.metrics = IDLE
    loud = start(recipe(alarms={"idle_steps": 1}), "demo-1")
    while status(registry, loud) != "succeeded":
        drive(loud)
        if status(registry, loud) == "paused":
            registry.ask(loud, "run")
    quiet = start(recipe(alarms=dict.fromkeys(AlarmSettings.model_fields)), "demo-2")
    drive(quiet)
    assert status(registry, quiet) == "succeeded"
    assert weights(registry.state(loud)[0]) == weights(registry.state(quiet)[0])


def test_a_run_that_learnt_nothing_succeeds_with_a_word(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    fakes.metrics = IDLE
    run = start(recipe())
    drive(run)
    ended = view(registry, run)
    assert ended.status is RunStatus.SUCCEEDED
    assert any("moved the weights" in each for each in ended.warnings)
    log = [event.type for event in registry.events(run)]
    assert log.index("run.alarm") < log.index("run.ended")


def test_what_creation_left_out_is_a_warning_from_the_start(recipe: Make, registry: Registry) -> None:
    inputs = INPUTS.model_copy(
        update={"bad_records": 2, "bad_examples": ("a.jsonl line 3: no JSON",), "too_long": 1, "long_examples": ("p",)}
    )
    registry.create("demo-1", recipe(), inputs)
    warnings = " ".join(view(registry, "demo-1").warnings)
    assert "2 bad records left out; first: a.jsonl line 3" in warnings
    assert "1 train problems are too long" in warnings
    types = [event.type for event in registry.events("demo-1")]
    assert {"problems.left_out", "problems.too_long"} <= set(types)


def test_the_newest_numbers_are_of_the_newest_step(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    run = start(recipe())
    drive(run)
    latest = view(registry, run).latest
    assert (latest.pass_rate, latest.infra_error_share, latest.train) == (0.25, 0.0, {"loss": 0.5})
    assert set(latest.accuracy) == {"test", "unseen"}
