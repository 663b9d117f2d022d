"""The words that the leak guard reads by, from `vocabulary.yaml`."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import yaml

VOCABULARY: dict[str, Any] = yaml.safe_load((files(__package__) / "vocabulary.yaml").read_text())


def any_of(name: str) -> str:
    """A pattern for any of the alternatives of an entry."""
    return "(?:" + re.sub(r"\s+\|\s+", "|", VOCABULARY[name].strip()) + ")"
