"""What a reader found in an answer, before any budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pmd.services.common.bank import Kind

AROUND = "outside the notes"
BEYOND = "beyond the budget"
CIRCLE = "runs in circles"
CUT = "cut off"
LONG = "too long"
PLACEHOLDER = "says nothing"
TWICE = "said twice"


class Note(NamedTuple):
    """One note."""

    kind: Kind | None
    """None where the answer does not say."""
    text: str


class Dropped(NamedTuple):
    """A piece of an answer that is not kept."""

    why: str
    text: str


@dataclass
class Found:
    """Notes in the order of the answer, and what is none."""

    notes: list[Note] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    nothing: bool = False
    """It says that there is nothing to note."""
