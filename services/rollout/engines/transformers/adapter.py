"""An adapter of PEFT on a model in memory.

Invariant: what it adds is computed beside the base's matrices and not added to them, as its trainer computes it. The
base stays as it was read, whichever version comes next, and in bf16 nothing small is lost in a large weight.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pmd.services.common.adapters import MODULES
from pmd.services.common.artifacts import ArtifactError


def attach(model: nn.Module, folder: Path) -> None:
    """Give `model` the adapter in `folder`.

    Raises:
        ArtifactError: its tensors are not those of such an adapter of this model.
    """
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 -- seconds, for runs that train an adapter

    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), model)
    if not fill(model, folder):
        raise ArtifactError(f"{folder} holds no adapter of its base; publish it again, and see its adapter_config.json")


def fill(model: nn.Module, folder: Path) -> bool:
    """Copy the tensors of `folder` into the adapter of `model`; False when they are not exactly its tensors."""
    from peft import (  # noqa: PLC0415 -- as above
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    tensors = {name.removeprefix(MODULES): one for name, one in load_peft_weights(str(folder), device="cpu").items()}
    own = get_peft_model_state_dict(model)
    if {name: one.shape for name, one in tensors.items()} != {name: one.shape for name, one in own.items()}:
        return False
    set_peft_model_state_dict(model, tensors)
    return True
