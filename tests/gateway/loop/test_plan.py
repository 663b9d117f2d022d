"""The plan, read as tables: no Celery, no HTTP, no database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pmd.gateway.loop.plan import next_phases, step_plan, steps_complete
from pmd.gateway.loop.state import CALLS, PhaseName, Record, RunState, last_step
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.requests import (
    AbstractRequest,
    ReflectRequest,
    TrainRequest,
)
from pmd.services.common.wire import Policy
from tests.gateway.loop.playing import INPUTS, answer, bodies, play

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
        "memory_agent that begins with a bank",
        {"method": "memory_agent", "schedule": {"steps": 0}, "memory": {"start_from": "run:x"}},
        [["import", "publish", "evaluate_retrieve", *EVALUATION]],
    ),
    (
        "pmd that begins with a bank",
        {"schedule": {"steps": 1}, "memory": {"start_from": "run:x"}},
        [
            ["import", "publish", "evaluate_retrieve", "probe", "probe_verify", *EVALUATION],
            ["rollout", "verify", *WRITTEN, "retrieve", "train", "publish", *EVALUATION],
        ],
    ),
    (
        "sdpo has no use for a bank",
        {"method": "sdpo", "schedule": {"steps": 0}, "memory": {"start_from": "run:x"}},
        [["publish", *EVALUATION]],
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


def test_the_slow_clock_starts_after_its_warmup(recipe: Make) -> None:
    plan = recipe(schedule={"steps": 8}, memory={"abstract": {"every": 2, "warmup": 4}})
    assert [step for step in range(1, 9) if "abstract" in step_plan(plan, step)] == [6, 8]


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


def test_a_run_without_evaluation_problems_evaluates_nothing(recipe: Make) -> None:
    state = RunState("demo-1", recipe(method="base"), INPUTS.model_copy(update={"evaluation": ()}))
    (phase,) = next_phases(state)
    assert phase.name == "publish"
    served = Policy(run="demo-1", weights=INPUTS.base).model_dump()
    assert next_phases(state.with_record(0, PhaseName.PUBLISH, Record(served))) == []


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
