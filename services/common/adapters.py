"""Adapters: published weights that are little without others, the base that they were trained on.

Invariants:
- A sealed folder says by its manifest whether it is one, and of what; nothing is guessed from its files.
- The base is named with its hash, so an adapter is never put on another one.
"""

from __future__ import annotations

import json
from pathlib import Path

from pmd.services.common.artifacts import MANIFEST, local_path
from pmd.services.common.wire import Weights

ADAPTER_OF = "adapter_of"
"""Key of a manifest with the weights that the folder's are an adapter of."""
CONFIG = "adapter_config.json"
"""PEFT's file of an adapter's rank, scale, layers and base."""
MODULES = "base_model.model."
"""What PEFT puts before the name of a module of the base."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for; a smaller one is filled up."""


def adapter_of(folder: Path) -> Weights | None:
    """The base that a sealed folder holds an adapter of; None for a whole model."""
    base = json.loads((folder / MANIFEST).read_text()).get(ADAPTER_OF)
    return None if base is None else Weights.model_validate(base)


def model_folder(folder: Path) -> Path:
    """Where config and tokenizer of what a sealed folder holds are: there, or in the base of an adapter."""
    base = adapter_of(folder)
    return folder if base is None else local_path(base.uri)


def vllm_rank(folder: Path) -> int:
    """The room that vLLM makes for the adapter in `folder`."""
    rank = json.loads((folder / CONFIG).read_text())["r"]
    return next(room for room in VLLM_RANKS if room >= rank)
