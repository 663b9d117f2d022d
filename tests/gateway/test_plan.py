"""The plan, read as tables: no Celery, no HTTP, no database."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.bodies import phase_seed, superseded
from gateway.order import step_problems
from gateway.plan import next_phases, step_plan, steps_complete
from gateway.recipe import Recipe
from gateway.state import CALLS, Inputs, PhaseName, Record, RunState, last_step
from services.common.requests import (
    AbstractRequest,
    GenerateRequest,
    GenerateResult,
    MemoryCounts,
    PublishRequest,
    ReflectRequest,
    RetrieveRequest,
    RetrieveResult,
    SplitScore,
    TrainRequest,
    TrainResult,
    VerifyResult,
)
from services.common.wire import Policy, Ref, Weights
from tests.gateway.test_gate import lead

Make = Callable[..., Recipe]

EVALUATION = ["evaluate", "evaluate_verify"]
SDPO = ["rollout", "verify", "retrieve", "train", "publish"]
WRITTEN = ["record", "reflect"]
GOLDEN: list[tuple[str, dict[str, Any], list[list[str]]]] = [
    # three steps, evaluation every 2, behaviors every 2 after 1
    ("base", {"method": "base"}, [["publish", *EVALUATION]]),
    (
        "grpo",
        {"method": "grpo"},
        [
            ["publish", *EVALUATION],
            ["rollout", "verify", "train", "publish"],
            ["rollout", "verify", "train", "publish", *EVALUATION],
            ["rollout", "verify", "train", "publish", *EVALUATION],
        ],
    ),
    ("sdpo", {"method": "sdpo"}, [["publish", *EVALUATION], SDPO, [*SDPO, *EVALUATION], [*SDPO, *EVALUATION]]),
    (
        "sdpo with the lead gate",
        {"method": "sdpo", "teacher": {"lead_gate": True}, "schedule": {"steps": 1}},
        [
            ["publish", *EVALUATION],
            ["rollout", "verify", "retrieve", "probe", "probe_verify", "train", "publish", *EVALUATION],
        ],
    ),
    (
        "memory_agent",
        {"method": "memory_agent", "schedule": {"steps": 2}},
        [
            ["publish", "evaluate_retrieve", *EVALUATION],
            ["retrieve", "rollout", "verify", *WRITTEN],
            ["retrieve", "rollout", "verify", *WRITTEN, "abstract", "evaluate_retrieve", *EVALUATION],
        ],
    ),
    (
        "pmd",
        {},
        [
            ["publish", *EVALUATION],
            ["rollout", "verify", *WRITTEN, "retrieve", "train", "publish"],
            ["rollout", "verify", *WRITTEN, "abstract", "retrieve", "train", "publish", *EVALUATION],
            ["rollout", "verify", *WRITTEN, "retrieve", "train", "publish", *EVALUATION],
        ],
    ),
    (
        "pmd, experience alone is recorded and not reflected on",
        {"memory": {"levels": ["experience"]}, "schedule": {"steps": 1}},
        [["publish", *EVALUATION], ["rollout", "verify", "record", *SDPO[2:], *EVALUATION]],
    ),
    (
        "pmd without behaviors",
        {"memory": {"levels": ["insight"]}, "schedule": {"steps": 2}},
        [
            ["publish", *EVALUATION],
            ["rollout", "verify", *WRITTEN, *SDPO[2:]],
            ["rollout", "verify", *WRITTEN, *SDPO[2:], *EVALUATION],
        ],
    ),
    (
        "pmd with memory frozen at step 2",
        {"memory": {"freeze_at_step": 2}},
        [
            ["publish", *EVALUATION],
            ["rollout", "verify", *WRITTEN, *SDPO[2:]],
            [*SDPO, *EVALUATION],
            [*SDPO, *EVALUATION],
        ],
    ),
    (
        "pmd with frozen weights",
        {"policy": {"freeze": True}, "schedule": {"steps": 1}},
        [["publish", *EVALUATION], ["rollout", "verify", *WRITTEN, "retrieve", *EVALUATION]],
    ),
    ("no steps", {"schedule": {"steps": 0}}, [["publish", *EVALUATION]]),
]


@pytest.mark.parametrize(("over", "expected"), [(o, e) for _, o, e in GOLDEN], ids=[name for name, _, _ in GOLDEN])
def test_a_method_does_these_phases_and_no_others(
    over: dict[str, Any], expected: list[list[str]], recipe: Make
) -> None:
    plan = recipe(**over)
    assert [list(step_plan(plan, step)) for step in range(last_step(plan) + 1)] == expected


# ---------------------------------------------------------------- playing a plan through


def ref(name: str) -> Ref:
    return Ref(uri=f"file:///runs/demo-1/{name}", sha256=name, bytes=1)


INPUTS = Inputs(
    root="file:///runs/demo-1",
    base=Weights(version=0, uri="file:///runs/demo-1/weights/v0000", sha256="base"),
    problems=ref("problems"),
    prompts=ref("prompts"),
    train=tuple(f"train-{n}" for n in range(6)),
    evaluation=("test-0", "unseen-0"),
)


def answer(request: BaseModel, at: str) -> BaseModel:
    """What a service would say; its artifacts are only named."""
    match request:
        case GenerateRequest():
            return GenerateResult(rollouts=ref(f"{at}.rollouts"), tokens=1, truncated=0)
        case PublishRequest():
            return request.policy
        case RetrieveRequest():
            return RetrieveResult(contexts=ref(f"{at}.contexts"), seq=1, with_context=1, items_used={})
        case TrainRequest():
            version = request.from_version + 1
            weights = Weights(version=version, uri=f"{request.out}/v{version:04d}", sha256=str(version))
            return TrainResult(weights=weights, metrics={})
        case _ if hasattr(request, "bank"):
            return MemoryCounts(seq=1, experience=1, insight=0, behavior=0)
        case _:
            return VerifyResult(verdicts=ref(f"{at}.verdicts"), outcomes={}, splits={})


FACTS = {
    PhaseName.VERIFY: {"tally": {"train-0": [0, 8], "train-1": [4, 8]}},
    PhaseName.RETRIEVE: {"probe": ["train-0#0", "train-1#0"]},
    PhaseName.PROBE_VERIFY: {"tally": {"train-0": [1, 1], "train-1": [0, 1]}},
}


def play(plan: Recipe, run: str = "demo-1", facts: bool = True) -> list[tuple[int, str, BaseModel]]:
    """Every phase of a run with its request body, in the order in which they become ready."""
    state = RunState(run, plan, INPUTS)
    played: list[tuple[int, str, BaseModel]] = []
    for _ in range(1000):
        ready = next_phases(state)
        if not ready:
            return played
        phase = ready[0]
        played.append((phase.step, str(phase.name), phase.request))
        result = answer(phase.request, f"{phase.step}.{phase.name}").model_dump(mode="json")
        state = state.with_record(phase.step, phase.name, Record(result, FACTS.get(phase.name, {}) if facts else {}))
    raise AssertionError("a plan that does not end")


def bodies(played: list[tuple[int, str, BaseModel]], name: str) -> list[Any]:
    return [request for _, phase, request in played if phase == name]


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


@pytest.mark.parametrize("gate", [False, True])
def test_law_2_pmd_without_memory_sends_what_sdpo_sends(gate: bool, recipe: Make) -> None:
    over = {"teacher": {"lead_gate": gate}, "retrieval": {"k": 5}}
    sdpo = play(recipe(method="sdpo", **over))
    pmd = play(recipe(method="pmd", memory={"levels": []}, **over))
    assert [(s, n, json.loads(r.model_dump_json())) for s, n, r in pmd] == [
        (s, n, json.loads(r.model_dump_json())) for s, n, r in sdpo
    ]
    assert all(r.bank is None and r.settings.levels == () for r in bodies(pmd, "retrieve"))


def test_only_the_run_id_differs_between_two_runs_of_a_recipe(recipe: Make) -> None:
    one = [r.model_dump_json() for _, _, r in play(recipe(), "demo-1")]
    two = [r.model_dump_json() for _, _, r in play(recipe(), "demo-2")]
    assert [body.replace("demo-2", "demo-1") for body in two] == one


def test_step_s_draws_with_version_s_minus_1_publishes_s_and_evaluates_s(recipe: Make) -> None:
    played = play(recipe())
    assert [r.policy.weights.version for r in bodies(played, "rollout")] == [0, 1, 2]
    assert [r.policy.weights.version for r in bodies(played, "publish")] == [0, 1, 2, 3]
    assert [r.policy.weights.version for r in bodies(played, "evaluate")] == [0, 2, 3]
    assert [r.policy_version for r in bodies(played, "reflect")] == [0, 1, 2]


def test_frozen_weights_stay_version_0(recipe: Make) -> None:
    played = play(recipe(policy={"freeze": True}))
    assert {r.policy.weights.version for _, n, r in played if n in {"rollout", "evaluate"}} == {0}


def test_a_frozen_memory_is_still_read(recipe: Make) -> None:
    played = play(recipe(memory={"freeze_at_step": 1}))
    assert not bodies(played, "record")
    assert [r.bank for r in bodies(played, "retrieve")] == ["demo-1"] * 3


def test_evaluation_asks_for_the_evaluation_splits_only(recipe: Make) -> None:
    played = play(recipe())
    assert all(r.ids == ["test-0", "unseen-0"] and r.n == 2 for r in bodies(played, "evaluate"))
    assert all(set(r.ids) <= set(INPUTS.train) for r in bodies(played, "rollout"))


def test_a_run_without_evaluation_problems_evaluates_nothing(recipe: Make) -> None:
    state = RunState("demo-1", recipe(method="base"), INPUTS.model_copy(update={"evaluation": ()}))
    (phase,) = next_phases(state)
    assert phase.name == "publish"
    served = Policy(run="demo-1", weights=INPUTS.base).model_dump()
    assert next_phases(state.with_record(0, PhaseName.PUBLISH, Record(served))) == []


def test_reflection_is_written_by_whom_the_recipe_names(recipe: Make) -> None:
    def models(**generator: Any) -> list[tuple[str, str | None]]:
        plan = recipe(generator=generator)
        return [(r.generator.model, r.generator.base_url) for r in bodies(play(plan), "reflect")]

    assert models(model="policy") == [("demo-1@0", None), ("demo-1@1", None), ("demo-1@2", None)]
    assert set(models(model="base")) == {("demo-1@0", None)}
    assert set(models(model="big", base_url="http://x/v1")) == {("big", "http://x/v1")}


def test_a_key_names_run_step_phase_and_attempt(recipe: Make) -> None:
    state = RunState("demo-1", recipe(), INPUTS)
    (phase,) = next_phases(state)
    assert phase.key == "demo-1.s0000.publish.1"
    (again,) = next_phases(state.with_attempt(0, PhaseName.PUBLISH, 3))
    assert again.key == "demo-1.s0000.publish.3"
    assert again.request == phase.request


def test_each_attempt_writes_an_artifact_of_its_own(recipe: Make) -> None:
    state = RunState("demo-1", recipe(method="base"), INPUTS)
    state = state.with_record(0, PhaseName.PUBLISH, Record(Policy(run="demo-1", weights=INPUTS.base).model_dump()))
    outs = [
        next_phases(state.with_attempt(0, PhaseName.EVALUATE, n))[0].request.out  # type: ignore[attr-defined]
        for n in (1, 2)
    ]
    assert outs == [f"file:///runs/demo-1/steps/00000/evaluate.{n}.parquet" for n in (1, 2)]


def test_only_the_verification_of_an_evaluation_overlaps_the_next_step(recipe: Make) -> None:
    """Every state that can occur: phases ready at once are one open verification and one phase of the next step."""
    plan = recipe(schedule={"steps": 5}, evaluation={"every": 1})
    todo = [RunState("demo-1", plan, INPUTS)]
    seen: set[frozenset[tuple[int, PhaseName]]] = set()
    pairs: set[tuple[int, ...]] = set()
    while todo:
        state = todo.pop()
        key = frozenset(state.records)
        if key in seen:
            continue
        seen.add(key)
        ready = next_phases(state)
        pairs.add(tuple(p.step - ready[0].step for p in ready))
        assert all(p.name == "evaluate_verify" for p in ready[:-1])
        for phase in ready:
            result = answer(phase.request, f"{phase.step}.{phase.name}").model_dump(mode="json")
            todo.append(state.with_record(phase.step, phase.name, Record(result)))
        if not ready:
            assert steps_complete(state) == 6
            assert len(state.records) == sum(len(step_plan(plan, s)) for s in range(6))
    assert pairs == {(), (0,), (0, 1)}


def test_steps_count_as_complete_when_nothing_of_them_is_open(recipe: Make) -> None:
    plan = recipe(schedule={"steps": 1})
    state = RunState("demo-1", plan, INPUTS)
    counts = []
    while ready := next_phases(state):
        phase = ready[-1]  # the evaluation of step 0 is verified last
        result = answer(phase.request, f"{phase.step}.{phase.name}").model_dump(mode="json")
        state = state.with_record(phase.step, phase.name, Record(result))
        counts.append(steps_complete(state))
    assert set(counts[:-1]) == {0}
    assert counts[-1] == 2


# ---------------------------------------------------------------- seeds and the order of problems


def test_seeds_differ_by_phase_and_step_and_not_by_method(recipe: Make) -> None:
    seeds = [phase_seed(7, step, name) for step in range(50) for name in PhaseName]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert phase_seed(7, 3, PhaseName.ROLLOUT) == 2097285740, "a change of this number changes every recorded result"
    assert bodies(play(recipe(method="grpo")), "rollout") == bodies(play(recipe(method="pmd")), "rollout")


@pytest.mark.parametrize(("size", "per_step"), [(6, 4), (64, 24), (7, 7), (5, 1), (10, 9)])
def test_problems_come_once_an_epoch_and_never_twice_in_a_step(size: int, per_step: int) -> None:
    problems = tuple(f"p{n}" for n in range(size))
    steps = 4 * size
    drawn = [step_problems(problems, 3, per_step, step) for step in range(1, steps + 1)]
    assert all(len(set(step)) == per_step for step in drawn)
    counts = {p: sum(p in step for step in drawn) for p in problems}
    assert set(counts.values()) == {4 * per_step}
    flat = [p for step in drawn for p in step]
    assert set(flat[:size]) == set(problems), "the first epoch holds every problem"


def test_the_order_of_problems_is_a_function_of_seed_and_step() -> None:
    problems = tuple(f"p{n}" for n in range(20))
    assert step_problems(problems, 3, 4, 9) == step_problems(tuple(problems), 3, 4, 9)
    assert step_problems(problems, 3, 4, 9) != step_problems(problems, 4, 4, 9)


def test_more_problems_a_step_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="3 problems a step, but there are 2"):
        step_problems(("a", "b"), 0, 3, 1)


def test_the_trainer_is_told_which_step_is_the_last(recipe: Make) -> None:
    *before, last = (train.last for train in bodies(play(recipe()), "train"))
    assert (set(before), last) == ({False}, True)


def scored(pass_rate: float) -> Record:
    """An evaluation's record."""
    splits = {"test": SplitScore(problems=1, rollouts=1, pass_rate=pass_rate, pass_at={})}
    return Record(VerifyResult(verdicts=ref("v"), outcomes={}, splits=splits).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("keep", "gone"), [(None, ()), (0, (1, 2, 3, 4, 5)), (1, (1, 3, 4, 5)), (2, (1, 3, 5)), (9, (1, 3, 5))]
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


# ---------------------------------------------------------------- the lead gate within the plan


def test_the_probe_draws_once_from_the_context_of_each_problems_first_rollout(recipe: Make) -> None:
    (probe, *_) = bodies(play(recipe(teacher={"lead_gate": True})), "probe")
    assert (probe.n, probe.ids) == (1, ["train-0#0", "train-1#0"])
    assert probe.prompts.sha256 == "1.retrieve.contexts"
    assert probe.policy.weights.version == 0


def test_a_training_step_is_scaled_by_the_lead_and_spares_misled_problems(recipe: Make) -> None:
    trained = bodies(play(recipe(teacher={"lead_gate": True})), "train")
    train = trained[0]
    scales = [lead([(0.5, 0.25)] * step).lr_scale for step in range(1, len(trained) + 1)]
    assert [t.lr_scale for t in trained] == pytest.approx(scales)
    assert train.masked_problems == ("train-1",)


def test_without_the_gate_every_step_counts_in_full(recipe: Make) -> None:
    for train in bodies(play(recipe()), "train"):
        assert (train.lr_scale, train.masked_problems) == (1.0, ())


def test_without_any_context_there_is_nothing_to_probe(recipe: Make) -> None:
    played = play(recipe(teacher={"lead_gate": True}), facts=False)
    assert not bodies(played, "probe")
    assert not bodies(played, "probe_verify")
    assert {t.lr_scale for t in bodies(played, "train")} == {1.0}


def test_every_phase_has_a_call(recipe: Make) -> None:
    assert set(CALLS) == set(PhaseName)
    for _, name, request in play(recipe(teacher={"lead_gate": True})):
        expected = {ReflectRequest: "reflect", AbstractRequest: "abstract", TrainRequest: "train"}
        assert expected.get(type(request), CALLS[PhaseName(name)].kind) == CALLS[PhaseName(name)].kind
