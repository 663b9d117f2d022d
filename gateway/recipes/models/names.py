"""Names of models: what a recipe's `model` says when it is no path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pmd
from pmd.gateway.recipes import hub

_NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
BUNDLED = {"pmd:pocket": "examples/pocket/base"}
"""Models that are installed with us, wherever that is: their folders in the package."""


@dataclass(frozen=True)
class HubName:
    """A model of the hub."""

    id: str
    """`owner/name`."""
    revision: str = "main"
    """Branch, tag or commit."""

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"

    @property
    def repository(self) -> hub.Repository:
        """What the hub knows it as."""
        return hub.Repository(self.id, "model", self.revision)


def hub_name(model: str) -> HubName | None:
    """The name that `model` is; None for a path or a URI."""
    found = _NAME.fullmatch(model)
    return HubName(found["id"], found["revision"] or "main") if found else None


def bundled(model: str) -> Path | None:
    """The folder, on this machine, of a model that is installed with us; None for another name."""
    return Path(pmd.__file__).parent / BUNDLED[model] if model in BUNDLED else None
