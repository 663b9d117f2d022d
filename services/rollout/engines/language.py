"""The text side of a policy: its tokenizer and chat template, which tokens end a completion, its context window.

Reads no weights, so that requests can be rendered and counted while an engine is busy or starts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from pmd.services.common.chat import chat_text, encode
from pmd.services.common.wire import Message


class Language:
    """Tokenizer of a weights folder; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._lock = threading.Lock()
        """A fast tokenizer refuses to be used by two threads at once."""
        config = AutoConfig.from_pretrained(folder)
        try:
            generation = GenerationConfig.from_pretrained(folder)
        except OSError:  # the folder has none
            generation = GenerationConfig.from_model_config(config)
        text = config.get_text_config()
        self.window = int(text.max_position_embeddings)
        """Longest prompt and completion together, in tokens."""
        self.vocabulary = int(text.vocab_size)
        """Rows of the output embedding."""
        ends = generation.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        self.ends: frozenset[int] = frozenset(ends | {self._tokenizer.eos_token_id} - {None})
        """Token ids that end a completion: those of the generation settings and the tokenizer's own."""

    def render(self, conversations: Sequence[Sequence[Message]], thinking: bool = False) -> list[tuple[int, ...]]:
        """Prompt ids of each conversation by the chat template."""
        with self._lock:
            texts = [
                chat_text(self._tokenizer, [message.model_dump() for message in messages], thinking=thinking)
                for messages in conversations
            ]
            prompts = encode(self._tokenizer, texts)
        return [tuple(prompt) for prompt in prompts]

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Each completion as text, without special tokens."""
        with self._lock:
            texts: list[str] = self._tokenizer.batch_decode(
                [list(ids) for ids in completions], skip_special_tokens=True
            )
        return texts

    def each_as_text(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as text of its own, special tokens included."""
        with self._lock:
            return [self._tokenizer.decode([token]) for token in token_ids]
