"""A plan played through: every phase with what it is given, services answered for by name alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from pmd.gateway.loop.plan import next_phases
from pmd.gateway.loop.state import PhaseName, Record, RunState
from pmd.gateway.recipes.inputs import Inputs, StartBank
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.requests import (
    GenerateRequest,
    GenerateResult,
    Imported,
    ImportRequest,
    MemoryCounts,
    PublishRequest,
    RetrieveRequest,
    RetrieveResult,
    SplitScore,
    TrainRequest,
    TrainResult,
    VerifyResult,
)
from pmd.services.common.wire import Ref, Weights


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


def answer(request: BaseModel, at: str) -> BaseModel:  # noqa: PLR0911 -- one a kind of job
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
        case ImportRequest():
            return Imported(seq=1, experience=0, insight=3, behavior=0, origin="x", model="base")
        case _ if hasattr(request, "bank"):
            return MemoryCounts(seq=1, experience=1, insight=0, behavior=0)
        case _:
            rate = 0.25 if at == "1.verify" else 0.5
            score = SplitScore(problems=1, rollouts=8, pass_rate=rate, pass_at={})
            return VerifyResult(verdicts=ref(f"{at}.verdicts"), outcomes={}, splits={"train": score})


FACTS = {
    PhaseName.VERIFY: {"tally": {"train-0": [0, 8], "train-1": [4, 8]}},
    PhaseName.RETRIEVE: {"probe": ["train-0#0", "train-1#0"]},
    PhaseName.PROBE_VERIFY: {"tally": {"train-0": [1, 1], "train-1": [0, 1]}},
}


BANK = StartBank(
    source="run:x",
    file=ref("start"),
    sha256="start",
    origin="x",
    model="base",
    seq=9,
    items={"insight": 3},
    problems=2,
    renamed_problems=0,
)


def play(plan: Recipe, run: str = "demo-1", facts: bool = True) -> list[tuple[int, str, BaseModel]]:
    """Every phase of a run with its request body, in the order in which they become ready."""
    state = RunState(run, plan, INPUTS.model_copy(update={"start": BANK if plan.start_from else None}))
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
