"""What each phase is given: requests read from plans that are played through."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pmd.gateway.loop.requests import phase_seed, request_body, superseded
from pmd.gateway.loop.state import PhaseName, Record, RunState
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.requests import (
    SplitScore,
    TrainRequest,
    TrainResult,
    VerifyResult,
)
from pmd.services.common.wire import Ref
from tests.gateway.loop.playing import BANK, INPUTS, answer, bodies, play, ref
from tests.gateway.loop.test_gate import lead

Make = Callable[..., Recipe]


def test_law_1_the_students_prompt_never_holds_memory(recipe: Make) -> None:
    for method in ("base", "grpo", "sdpo", "pmd"):
        played = play(recipe(method=method))
        for request in bodies(played, "rollout") + bodies(played, "evaluate"):
            assert request.prompts == INPUTS.prompts


def test_the_memory_agent_alone_draws_from_contexts(recipe: Make) -> None:
    played = play(recipe(method="memory_agent"))
    assert [r.prompts.sha256 for r in bodies(played, "rollout")] == [f"{s}.retrieve.contexts" for s in (1, 2, 3)]
    assert all("evaluate_retrieve" in r.prompts.sha256 for r in bodies(played, "evaluate"))
    assert all(r.rollouts is None and r.bank == "demo-1" for r in bodies(played, "retrieve"))
    assert bodies(played, "evaluate_retrieve")[0].problem_ids == ["test-0", "unseen-0"]
    assert {r.policy.weights.version for r in bodies(played, "rollout")} == {0}


def test_student_probe_and_teacher_think_alike(recipe: Make) -> None:
    for said in ("off", "on"):
        played = play(recipe(thinking=said, teacher={"lead_gate": True}))
        asked = [request for name in ("rollout", "probe", "evaluate", "train") for request in bodies(played, name)]
        assert {request.thinking for request in asked} == {said == "on"}


def test_a_bank_to_begin_with_is_measured_on_what_is_evaluated_and_teaches_it_nothing(recipe: Make) -> None:
    """The teacher reads the bank, the student does not; both answer the same problems, as often and in the same way."""
    played = play(recipe(memory={"start_from": "run:x"}, teacher={"lead_gate": True}, schedule={"steps": 2}))
    by_name = {name: request for step, name, request in played if step == 0}
    assert by_name["import"].file == BANK.file
    assert by_name["evaluate_retrieve"].problem_ids == ["test-0", "unseen-0"]
    assert (by_name["evaluate_retrieve"].rollouts, by_name["evaluate_retrieve"].trial) == (None, False)
    with_bank, without = by_name["probe"], by_name["evaluate"]
    assert (with_bank.prompts.sha256, with_bank.ids) == ("0.evaluate_retrieve.contexts", None)
    assert without.prompts == INPUTS.prompts
    for same in ("n", "sampling", "policy", "thinking"):
        assert getattr(with_bank, same) == getattr(without, same)
    first, second = bodies(played, "record")
    assert first.outcomes is None, "evaluation problems never enter a bank"
    assert second.outcomes_step == 1
    assert all(request.trial for request in bodies(played, "retrieve"))


@pytest.mark.parametrize("gate", [False, True])
def test_law_2_pmd_without_memory_sends_what_sdpo_sends(gate: bool, recipe: Make) -> None:
    over = {"teacher": {"lead_gate": gate}, "retrieval": {"k": 5}}
    sdpo = play(recipe(method="sdpo", **over))
    pmd = play(recipe(method="pmd", memory={"levels": []}, **over))
    assert [(s, n, json.loads(r.model_dump_json())) for s, n, r in pmd] == [
        (s, n, json.loads(r.model_dump_json())) for s, n, r in sdpo
    ]
    assert all(r.bank is None and r.settings.levels == () for r in bodies(pmd, "retrieve"))


def test_law_1_what_is_trained_on_was_drawn_from_the_students_prompt(recipe: Make) -> None:
    """Each phase reads what its own step wrote: a probe, which saw memory, is never practised, nor an evaluation."""
    reads = {
        "verify": {"rollouts": "rollout.rollouts"},
        "probe_verify": {"rollouts": "probe.rollouts"},
        "evaluate_verify": {"rollouts": "evaluate.rollouts"},
        "record": {"rollouts": "rollout.rollouts", "verdicts": "verify.verdicts"},
        "retrieve": {"rollouts": "rollout.rollouts", "verdicts": "verify.verdicts"},
        "train": {"rollouts": "rollout.rollouts", "verdicts": "verify.verdicts", "contexts": "retrieve.contexts"},
    }
    played = play(recipe(teacher={"lead_gate": True}))
    assert set(reads) <= {name for _, name, _ in played}
    for step, name, request in played:
        for field, source in reads.get(name, {}).items():
            assert getattr(request, field) == ref(f"{step}.{source}"), (step, name)
    assert {r.contexts for r in bodies(play(recipe(method="grpo")), "train")} == {None}


def test_only_the_run_id_differs_between_two_runs_of_a_recipe(recipe: Make) -> None:
    one = [r.model_dump_json() for _, _, r in play(recipe(), "demo-1")]
    two = [r.model_dump_json() for _, _, r in play(recipe(), "demo-2")]
    assert [body.replace("demo-2", "demo-1") for body in two] == one


def test_evaluation_asks_for_the_evaluation_splits_only(recipe: Make) -> None:
    played = play(recipe())
    assert all(r.ids == ["test-0", "unseen-0"] and r.n == 2 for r in bodies(played, "evaluate"))
    assert all(set(r.ids) <= set(INPUTS.train) for r in bodies(played, "rollout"))


def test_an_evaluation_samples_as_the_recipe_says_of_evaluations(recipe: Make) -> None:
    over = {"sampling": {"temperature": 0.9}, "evaluation": {"sampling": {"temperature": 0.0}}}
    played = play(recipe(teacher={"lead_gate": True}, **over))
    assert {r.sampling.temperature for r in bodies(played, "evaluate")} == {0.0}
    assert {r.sampling.temperature for r in bodies(played, "rollout") + bodies(played, "probe")} == {0.9}
    assert {r.settings.temperature for r in bodies(played, "train")} == {0.9}, "what it was drawn at"


def test_the_recipes_switches_reach_the_service_that_obeys_them(recipe: Make) -> None:
    over = {
        "memory": {"transient": True, "keep_attempts": 3, "reflect": {"excerpt_chars": 99}},
        "context": {"demonstrations": "same_plan", "feedback": "never", "conflicts": "show"},
        "retrieval": {"k": 5},
        "teacher": {"ema": 0.25},
    }
    played = play(recipe(**over))
    assert {r.keep_attempts for r in bodies(played, "record")} == {3}
    shown = bodies(played, "retrieve")[0].settings
    assert shown.model_dump(include={"transient", "demonstrations", "feedback", "conflicts", "k", "excerpt_chars"}) == {
        "transient": True,
        "k": 5,
        "excerpt_chars": 99,
        **over["context"],
    }
    assert {r.settings.teacher_ema for r in bodies(played, "train")} == {0.25}


@pytest.mark.parametrize("method", ["grpo", "sdpo", "pmd"])
def test_a_method_trains_by_its_own_objective(method: str, recipe: Make) -> None:
    trained = bodies(play(recipe(method=method)), "train")
    assert {r.settings.loss for r in trained} == {"grpo" if method == "grpo" else "distill"}


def test_notes_are_credited_with_what_goes_beyond_the_first_steps_pass_rate(recipe: Make) -> None:
    played = play(recipe())
    assert {r.base_pass_rate for r in bodies(played, "reflect") + bodies(played, "retrieve")} == {0.25}


def test_notes_are_measured_by_what_was_drawn_from_contexts_that_hold_them(recipe: Make) -> None:
    def measured(**over: Any) -> list[tuple[int | None, Ref | None]]:
        return [(r.outcomes_step, r.outcomes) for r in bodies(play(recipe(**over)), "record")]

    memory, gate = {"quality": {"hold_out": 0.1}}, {"lead_gate": True}
    probed = [(step, ref(f"{step}.probe_verify.verdicts")) for step in (1, 2)]
    assert measured(memory=memory, teacher=gate) == [(None, None), *probed], "a step's probe is judged after its record"
    agents = [(step, ref(f"{step}.verify.verdicts")) for step in (1, 2, 3)]
    assert measured(memory=memory, method="memory_agent") == agents
    assert measured(teacher=gate) == [(None, None), *probed], "there are always attempts without memory to compare with"
    assert measured() == [(None, None)] * 3, "nobody drew from contexts"


def test_reflection_is_written_by_whom_the_recipe_names(recipe: Make) -> None:
    def models(**generator: Any) -> list[tuple[str, str | None]]:
        plan = recipe(generator=generator)
        return [(r.generator.model, r.generator.base_url) for r in bodies(play(plan), "reflect")]

    assert models(model="policy") == [("demo-1@0", None), ("demo-1@1", None), ("demo-1@2", None)]
    assert set(models(model="base")) == {("demo-1@0", None)}
    assert set(models(model="big", base_url="http://x/v1")) == {("big", "http://x/v1")}


def test_seeds_differ_by_phase_and_step_and_not_by_method(recipe: Make) -> None:
    seeds = [phase_seed(7, step, name) for step in range(50) for name in PhaseName]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert phase_seed(7, 3, PhaseName.ROLLOUT) == 2097285740, "a change of this number changes every recorded result"
    assert bodies(play(recipe(method="grpo")), "rollout") == bodies(play(recipe(method="pmd")), "rollout")


def test_the_trainer_is_told_which_step_is_the_last(recipe: Make) -> None:
    *before, last = (train.last for train in bodies(play(recipe()), "train"))
    assert (set(before), last) == ({False}, True)


def scored(pass_rate: float) -> Record:
    """An evaluation's record."""
    splits = {"test": SplitScore(problems=1, rollouts=1, pass_rate=pass_rate, pass_at={})}
    return Record(VerifyResult(verdicts=ref("v"), outcomes={}, splits=splits).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("keep", "gone"), [(None, ()), (0, (1, 3, 4, 5)), (1, (1, 3, 4, 5)), (2, (1, 3, 5)), (9, (1, 3, 5))]
)
def test_the_newest_and_the_best_evaluated_versions_are_kept(
    keep: int | None, gone: tuple[int, ...], recipe: Make
) -> None:
    plan = recipe(schedule={"steps": 9, "keep_weights": keep})
    state = RunState("demo-1", plan, INPUTS)
    for step, pass_rate in ((0, 1.0), (2, 0.9), (4, 0.5)):
        state = state.with_record(step, PhaseName.EVALUATE_VERIFY, scored(pass_rate))
    assert superseded(state, 7) == gone
    late = state.with_record(6, PhaseName.EVALUATE_VERIFY, scored(1.0))
    assert superseded(late, 7) == gone, "a score that may come while the step is trained changes nothing"


def test_the_probe_draws_once_from_the_context_of_each_problems_first_rollout(recipe: Make) -> None:
    (probe, *_) = bodies(play(recipe(teacher={"lead_gate": True})), "probe")
    assert (probe.n, probe.ids) == (1, ["train-0#0", "train-1#0"])
    assert probe.prompts.sha256 == "1.retrieve.contexts"
    assert probe.policy.weights.version == 0


def test_a_training_step_is_scaled_by_the_lead_and_spares_misled_problems(recipe: Make) -> None:
    trained = bodies(play(recipe(teacher={"lead_gate": True}, schedule={"steps": 14})), "train")
    train = trained[0]
    scales = [lead([(0.5, 0.25)] * step).lr_scale for step in range(1, len(trained) + 1)]
    assert scales[-1] < scales[-2] < 1.0, "the gate begins to close"
    assert [t.lr_scale for t in trained] == pytest.approx(scales)
    assert train.masked_problems == ("train-1",)


def test_without_the_gate_every_step_counts_in_full(recipe: Make) -> None:
    for train in bodies(play(recipe()), "train"):
        assert (train.lr_scale, train.masked_problems) == (1.0, ())


@pytest.mark.parametrize(("entropy", "bonus"), [(0.2, 0.0), (0.05, 0.03)])
def test_a_step_is_paid_for_entropy_after_one_that_was_below_the_floor(
    entropy: float, bonus: float, recipe: Make
) -> None:
    plan = recipe(schedule={"steps": 3}, method="grpo", objective={"entropy_floor": 0.1, "entropy_weight": 0.03})
    first, *_ = bodies(play(plan), "train")
    assert first.settings.entropy_bonus == 0.0, "nothing was measured before"
    state = RunState("demo-1", plan, INPUTS)
    for step, measured in ((1, {"entropy": entropy, "tokens": 9.0}), (2, {"entropy": 0.0, "tokens": 0.0})):
        trained = TrainResult(weights=INPUTS.base.model_copy(update={"version": step}), metrics=measured)
        state = state.with_record(step, PhaseName.TRAIN, Record(trained.model_dump(mode="json")))
    for name in (PhaseName.ROLLOUT, PhaseName.VERIFY):
        body = bodies(play(plan), str(name))[0]
        state = state.with_record(3, name, Record(answer(body, f"3.{name}").model_dump(mode="json")))
    request = request_body(state, 3, PhaseName.TRAIN, "file:///out")
    assert isinstance(request, TrainRequest)
    assert request.settings.entropy_bonus == bonus, "a step without tokens measured nothing"


@pytest.mark.parametrize("changes", [{"route": "failed"}, {"reward_share": 0.3}])
def test_a_blend_is_asked_for_by_the_objective_of_a_method_with_a_teacher(changes: Any, recipe: Make) -> None:
    def losses(method: str, **objective: Any) -> set[str]:
        return {train.settings.loss for train in bodies(play(recipe(method=method, objective=objective)), "train")}

    assert losses("pmd", **changes) == losses("sdpo", **changes) == {"blend"}
    assert losses("grpo", **changes) == {"grpo"}
    assert losses("pmd") == {"distill"}
    assert losses("ssd") == {"likelihood"}
