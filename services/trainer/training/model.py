"""A Hugging Face causal language model that computes logits only where a loss reads them.

Invariant: logits are exactly the model's own (its scaling and soft-capping included). Only the rows of hidden
states that enter the output embedding are selected, so every architecture works unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pmd.services.trainer.training.packing import Rows
from pmd.services.trainer.training.prefix import share_prompts


def load_model(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The causal language model in `folder`, without dropout.

    Dropout is off because the objectives compare with log-probabilities of a sampler that has none.
    """
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    share_prompts(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 -- a number on attention modules, not a submodule
    return model


def completion_logits(model: nn.Module, rows: Rows, temperature: float, forward: nn.Module | None = None) -> Tensor:
    """Logits at `rows.index_N` in fp32, divided by the temperature: [N, V] instead of [B, T, V].

    With a vocabulary of 150k and prompts of thousands of tokens, the rows left out are most of a step's memory.

    Args:
        model: a causal language model of transformers.
        forward: what is called in the model's place: the DeepSpeed engine around it.
    """

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, -2)[rows.index_N],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)  # type: ignore[operator]
    try:
        output: Any = (forward or model)(input_ids=rows.ids_BT, use_cache=False, **rows.shared)
    finally:
        hook.remove()
    logits_NV: Tensor = output.logits.float()
    return logits_NV if temperature == 1.0 else logits_NV / temperature
