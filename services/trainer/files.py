"""What of a base model's folder goes with weights that were trained from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pmd.services.common.artifacts import MANIFEST

OWN_FILES = frozenset({MANIFEST, "config.json"})
"""Written anew for each version, and not copied from the base."""

WEIGHTS = ("safetensors", "bin", "pt", "pth", "h5", "msgpack", "gguf", "onnx")
"""Endings of files of weights, of any framework. Those of the base would be another model than what is exported."""

WEIGHT_FILES = tuple(f"*.{ending}{index}" for ending in WEIGHTS for index in ("", ".index.json"))


def copy_others(base: Path, to: Path) -> None:
    """Copy tokenizer, chat template, generation settings and terms, untouched."""
    for path in base.iterdir():
        if path.is_file() and path.name not in OWN_FILES and not any(path.match(p) for p in WEIGHT_FILES):
            shutil.copyfile(path, to / path.name)
