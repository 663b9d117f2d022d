"""Values that cross between an engine and its callers; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One completion to draw. `seed` and `stream` name its random numbers; both are taken modulo 2**64."""

    prompt_ids: tuple[int, ...]
    seed: int
    stream: int
    schema: str | None = None
    """JSON schema, as JSON, that the completion is held to by engines that can."""


@dataclass(frozen=True)
class Completion:
    """One completion and who made it."""

    token_ids: list[int]
    """With the end token when `finish_reason` is stop."""
    logprobs: list[float]
    """Of the sampler at its temperature, in nats, one per token id."""
    text: str
    """Without special tokens."""
    finish_reason: Literal["stop", "length"]
    policy_version: int


REPEATED = 4
"""Length in tokens of what may occur again in a completion."""


def repetition(token_ids: Sequence[int]) -> float:
    """Share of a completion's 4-grams that occurred in it before (seq-rep-4, arXiv 1908.04319); 0 without any."""
    grams = [tuple(token_ids[i : i + REPEATED]) for i in range(len(token_ids) - REPEATED + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class DivergedError(RuntimeError):
    """The model's logits are not finite."""

    def __init__(self) -> None:
        super().__init__(
            "the policy's logits are not finite: its weights have diverged; start a new run with a lower optimizer.lr"
        )


class UnusableSchema(ValueError):
    """A JSON schema that the engine can't hold a completion to; the message says why."""


class NoRoom(ValueError):
    """A prompt and the longest completion together exceed the model's context window."""

    def __init__(self, prompt: int, completion: int, window: int) -> None:
        super().__init__(
            f"its {prompt} tokens and max_tokens={completion} exceed the context window of {window}; "
            "shorten the prompt or lower max_tokens"
        )


def require_room(prompt_ids: tuple[int, ...], max_tokens: int, window: int) -> None:
    """Refuse a prompt whose longest completion would leave the context window.

    Raises:
        NoRoom: with the three numbers, in tokens.
    """
    if len(prompt_ids) + max_tokens > window:
        raise NoRoom(len(prompt_ids), max_tokens, window)
