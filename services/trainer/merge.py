"""An adapter added to the weights of its base, as a plain model: `python -m pmd.services.trainer.merge ADAPTER TO`.

Invariants:
- It is added to the base that it was trained on, by hash, and to no other.
- It is added in fp32 and written in fp32; whoever wants fewer bits rounds once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pmd.services.common.adapters import adapter_of
from pmd.services.common.artifacts import ArtifactError, check_weights
from pmd.services.trainer.files import copy_others


def merge(folder: Path, to: Path) -> None:
    """Write the model that the sealed adapter in `folder` makes of its base to `to`.

    Raises:
        ArtifactError: it holds no adapter, or its base is not where the manifest says or is another one.
    """
    of = adapter_of(folder)
    if of is None:
        raise ArtifactError(f"{folder} holds a whole model and no adapter; it needs no merge")
    base = check_weights(of)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, str(folder)).merge_and_unload().save_pretrained(to)
    copy_others(base, to)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pmd.services.trainer.merge", description=__doc__)
    parser.add_argument("adapter", type=Path, help="folder of a published version that is an adapter")
    parser.add_argument("to", type=Path, help="folder to write")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    merge(given.adapter, given.to)


if __name__ == "__main__":
    main()
