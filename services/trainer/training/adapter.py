"""A low-rank adapter of a frozen base (LoRA, arXiv 2106.09685), by PEFT: W + (alpha / rank) B A for each matrix W.

Invariants:
- Every linear layer but the output embedding has one, without dropout: the objectives compare with log-probabilities of
  a sampler that has none.
- B begins at zero, so version 0 is the base; A is drawn from torch's generator, which the caller seeds.
- What is saved is an ordinary PEFT folder, the same bytes whichever process wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor, nn

from pmd.services.common.adapters import MODULES
from pmd.services.common.options import LoraSettings

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

NAME = "default"
"""PEFT's own name of an adapter that is alone."""
FILE = "adapter_model.safetensors"


def attach(model: nn.Module, settings: LoraSettings) -> None:
    """Give `model` an adapter, in its precision; all else of it is frozen from now on.

    Raises:
        ValueError: it has no linear layer that PEFT knows.
    """
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 -- seconds, for runs that train an adapter

    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    known: Any = inject_adapter_in_model(config, model, adapter_name=NAME)
    # By their last names, as PEFT matches them: of each layer in full they are a set without an order.
    known.peft_config[NAME].target_modules = sorted({name.rpartition(".")[2] for name in adapted(model)})


def adapted(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers that have an adapter, by name; empty for a model that is trained whole."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def factors(layer: LoraLayer, name: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """B, scaled, and A of a layer from an adapter's tensors by name: what their product adds to its weight."""
    return tensors[f"{name}.lora_B.{NAME}.weight"] * layer.scaling[NAME], tensors[f"{name}.lora_A.{NAME}.weight"]


def save(model: Any, tensors: Mapping[str, Tensor], folder: Path, base: str) -> None:
    """Write the adapter as PEFT does.

    Args:
        tensors: of the adapter, as the model names them.
        base: where PEFT finds the model that it is of.
    """
    config = model.peft_config[NAME]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
    saved = {MODULES + name.replace(f".{NAME}.weight", ".weight"): tensor for name, tensor in tensors.items()}
    save_file(saved, folder / FILE, metadata={"format": "pt"})
