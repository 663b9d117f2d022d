"""Values: the words of the design as data.

Invariants:
- They travel as JSON; a key that is not known is an error.
- None belongs to one job or one recipe: those are made of these values (`requests`, `options`).
- What points at bulk data (`Ref`, `Weights`) holds its hash: what it names never changes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from pmd.services.common.strict import Strict

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""An identifier that is safe in a path, a URL and a database key."""

Split = Literal["train", "test", "unseen"]
"""train: trained on. test: new problems of known families. unseen: combinations that never occur in train."""

Level = Literal["experience", "insight", "behavior"]
"""experience: raw attempts of a problem. insight: strategies and lessons of a problem. behavior: rules
across problems."""


class Message(Strict):
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class Problem(Strict):
    """A verifiable task. The verifier spec holds the expected answer and never leaves for a policy."""

    id: Slug
    messages: list[Message] = Field(min_length=1)
    verifier: dict[str, Any]
    """`kind` and what that kind needs (docs/verifier.md); the verifier service validates it."""
    domain: str = ""
    split: Split = "train"

    @field_validator("messages")
    @classmethod
    def _asks(cls, messages: list[Message]) -> list[Message]:
        if all(message.role != "user" for message in messages):
            raise ValueError("no turn of a user, so nothing is asked")
        return messages

    def question(self) -> str:
        """The last user turn: what teacher contexts and reflection quote."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")


class Outcome(StrEnum):
    """What a verdict says. Only `infra_error` is our fault: it is retried, then masked from the loss (Law 5)."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    FORMAT = "format"
    INFRA_ERROR = "infra_error"


class Verdict(Strict):
    """A verifier's judgement of one completion."""

    outcome: Outcome
    reward: float = Field(ge=0.0, le=1.0)
    feedback: str = ""
    sandbox_tier: str = ""
    """Isolation in force when untrusted code ran; empty for kinds that run none."""
    cpu_ms: float = 0.0
    error: str = ""
    """Cause of an `infra_error`, for the operator; no model ever sees it."""


class Ref(Strict):
    """A pointer to an immutable artifact, checked by its hash when it is read."""

    uri: str
    sha256: str
    bytes: int
    rows: int = 0


class Weights(Strict):
    """A published policy version: an ordinary Hugging Face folder whose manifest was written last.

    It is whole, or an adapter of other weights, which its manifest names (`adapters.adapter_of`).
    """

    version: int = Field(ge=0)
    uri: str
    """Folder with config, tokenizer and safetensors; an adapter's has the last alone, and PEFT's config."""
    sha256: str
    """Hash of `manifest.json`, which lists every other file with its own hash."""


MAX_COUNT = 2**31 - 1
"""Largest number of anything: what every database and tensor holds."""

MAX_SAMPLES = 1024
"""Most completions of one prompt that can be asked for at once."""

MAX_TOKENS = 131_072
"""Longest completion that can be asked for."""


def _warm(temperature: float) -> float:
    if 0 < temperature < 0.001:
        raise ValueError("between 0 and 0.001 probabilities overflow; give 0 for greedy choices")
    return temperature


Temperature = Annotated[float, Field(ge=0.0, le=5.0), AfterValidator(_warm)]
"""Of the sampler; 0 is greedy."""


class Sampling(Strict):
    """How completions are drawn."""

    temperature: Temperature = 1.0
    """Logits are divided by it; 0 takes the likeliest token each time."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Only the likeliest tokens that together have this probability are drawn; 1: all."""
    max_tokens: int = Field(default=512, ge=1, le=MAX_TOKENS)
    """Longest completion, in tokens."""


class Policy(Strict):
    """Which weights must answer: a run's policy at one version."""

    run: Slug
    weights: Weights

    @property
    def model(self) -> str:
        """The name under which `/v1/chat/completions` serves exactly this version."""
        return f"{self.run}@{self.weights.version}"
