"""Conversations in a model's chat format: what a sampler draws after, and what a trainer's teacher reads.

Invariant: both read the same tokens, because both are made here. Nothing is added to what the template writes: it has
its own first and last tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """The conversation as the model reads it."""

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Token ids of each text under `input_ids`."""


def chat_text(tokenizer: Tokenizer, conversation: list[dict[str, str]], *, thinking: bool) -> str:
    """The conversation in the model's chat format, ready for an answer, which begins with a thinking part or not.

    Templates that know no thinking mode ignore the switch.
    """
    return str(
        tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
    )


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, which holds its special tokens already."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return ids
