"""A Hugging Face causal language model, ready to be trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.adapter import attach
from pmd.services.trainer.training.head import check_head
from pmd.services.trainer.training.prefix import share_prompts


def load_student(folder: Path, settings: TrainSettings, seed: int) -> nn.Module:
    """The model that a run begins with, ready to be trained: whole, or an adapter of it.

    Args:
        seed: of the adapter's first numbers.

    Raises:
        ValueError: as `load_model` has it, or PEFT finds nothing to adapt.
    """
    model = load_model(folder, torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    if settings.gradient_checkpointing:
        # Not reentrant: gradients also come where a layer's input has none, as under an adapter.
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    torch.manual_seed(seed)
    if settings.lora is not None:
        attach(model, settings.lora)
    return model


def load_model(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The causal language model in `folder`, without dropout.

    Dropout is off because the objectives compare with log-probabilities of a sampler that has none.

    Raises:
        ValueError: for a model whose logits the trainer can't compute (`head.check_head`).
    """
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    share_prompts(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 -- a number on attention modules, not a submodule
    check_head(model)
    return model
