"""Prompts that training would leave out because they are too long, known before a run draws one rollout.

Invariant: a lower bound. Only the messages are counted, not what the chat template writes around them: a problem that
is named here is surely masked, one near the limit may be masked without being named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Protocol

from pmd.services.common.wire import Problem


class Counts(Protocol):
    """What is used of a tokenizer."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Sized:
        """The tokens of a text."""


def tokenizer_of(model: Path) -> Counts | None:
    """The tokenizer of a model folder; None when it can't be read here, and then the trainer's count tells."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 -- a gateway without it counts nothing

        tokenizer: Counts = Tokenizer.from_file(str(model / "tokenizer.json"))
    except Exception:  # the library raises bare ones; a file that is wrong ends step 0 with its cause
        return None
    return tokenizer


def too_long(problems: Iterable[Problem], model: Path, limit: int) -> list[tuple[Problem, int]]:
    """The problems whose prompt has more than `limit` tokens, each with how many it has at least."""
    # No tokenizer makes more tokens of a text than it has bytes.
    open_ = [p for p in problems if sum(len(m.content.encode()) for m in p.messages) > limit]
    tokenizer = tokenizer_of(model) if open_ else None
    if tokenizer is None:
        return []
    counted = (
        (problem, sum(len(tokenizer.encode(m.content, add_special_tokens=False)) for m in problem.messages))
        for problem in open_
    )
    return [(problem, tokens) for problem, tokens in counted if tokens > limit]
