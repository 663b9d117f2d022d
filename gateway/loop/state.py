"""What is known of a run: the words that the plan, the registry and the reports share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel

from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.requests import (
    GenerateResult,
    Imported,
    MemoryCounts,
    RetrieveResult,
    TrainResult,
    VerifyResult,
    WriteResult,
)
from pmd.services.common.wire import Policy

Result = TypeVar("Result", bound=BaseModel)


class PhaseName(StrEnum):
    """One service call within a step."""

    IMPORT = "import"
    ROLLOUT = "rollout"
    VERIFY = "verify"
    RECORD = "record"
    REFLECT = "reflect"
    ABSTRACT = "abstract"
    RETRIEVE = "retrieve"
    PROBE = "probe"
    PROBE_VERIFY = "probe_verify"
    TRAIN = "train"
    PUBLISH = "publish"
    EVALUATE_RETRIEVE = "evaluate_retrieve"
    EVALUATE = "evaluate"
    EVALUATE_VERIFY = "evaluate_verify"


class Service(StrEnum):
    """Who does a phase."""

    ROLLOUT = "rollout"
    VERIFIER = "verifier"
    MEMORY = "memory"
    TRAINER = "trainer"


@dataclass(frozen=True)
class Call:
    """The kind of job that does a phase, and what it answers."""

    service: Service
    kind: str
    result: type[BaseModel]


CALLS: Mapping[PhaseName, Call] = {
    PhaseName.IMPORT: Call(Service.MEMORY, "import", Imported),
    PhaseName.ROLLOUT: Call(Service.ROLLOUT, "generate", GenerateResult),
    PhaseName.VERIFY: Call(Service.VERIFIER, "verify", VerifyResult),
    PhaseName.RECORD: Call(Service.MEMORY, "record", MemoryCounts),
    PhaseName.REFLECT: Call(Service.MEMORY, "reflect", WriteResult),
    PhaseName.ABSTRACT: Call(Service.MEMORY, "abstract", WriteResult),
    PhaseName.RETRIEVE: Call(Service.MEMORY, "retrieve", RetrieveResult),
    PhaseName.PROBE: Call(Service.ROLLOUT, "generate", GenerateResult),
    PhaseName.PROBE_VERIFY: Call(Service.VERIFIER, "verify", VerifyResult),
    PhaseName.TRAIN: Call(Service.TRAINER, "train", TrainResult),
    PhaseName.PUBLISH: Call(Service.ROLLOUT, "publish", Policy),
    PhaseName.EVALUATE_RETRIEVE: Call(Service.MEMORY, "retrieve", RetrieveResult),
    PhaseName.EVALUATE: Call(Service.ROLLOUT, "generate", GenerateResult),
    PhaseName.EVALUATE_VERIFY: Call(Service.VERIFIER, "verify", VerifyResult),
}


@dataclass(frozen=True)
class Record:
    """What one succeeded phase left behind."""

    result: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What later phases need out of the phase's artifact; see `pmd.gateway.loop.gate`."""
    seconds: float = 0.0


Records = Mapping[tuple[int, PhaseName], Record]


@dataclass(frozen=True)
class RunState:
    """Everything that decides what comes next."""

    run: str
    recipe: Recipe
    inputs: Inputs
    records: Records = field(default_factory=dict)
    attempts: Mapping[tuple[int, PhaseName], int] = field(default_factory=dict)
    """Number of the attempt that is open or due, for phases that have been tried before; else 1."""

    def with_record(self, step: int, name: PhaseName, record: Record) -> RunState:
        """This state after one more phase has succeeded."""
        return replace(self, records={**self.records, (step, name): record})

    def with_attempt(self, step: int, name: PhaseName, attempt: int) -> RunState:
        """This state with another attempt of a phase due."""
        return replace(self, attempts={**self.attempts, (step, name): attempt})

    def result(self, step: int, name: PhaseName, kind: type[Result]) -> Result:
        """The recorded result of a phase, typed."""
        return kind.model_validate(self.records[step, name].result)


@dataclass(frozen=True)
class Phase:
    """One job to submit."""

    step: int
    name: PhaseName
    attempt: int
    key: str
    """Deterministic: the same attempt of the same phase is the same job, whoever submits it."""
    request: BaseModel

    @property
    def call(self) -> Call:
        """Who does it, and how."""
        return CALLS[self.name]


def last_step(recipe: Recipe) -> int:
    """The step after which a run has succeeded."""
    return 0 if METHODS[recipe.method].evaluates_only else recipe.schedule.steps


def version_at(recipe: Recipe, step: int) -> int:
    """The policy version that a step draws with."""
    return max(0, step - 1) if recipe.trains else 0


def version_after(recipe: Recipe, step: int) -> int:
    """The policy version in force when a step is complete; it is the one that the step evaluates."""
    return step if recipe.trains else 0
