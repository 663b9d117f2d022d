"""Beliefs: how far notes are believed at a problem, and by what evidence. All that selection knows of evidence.

`by_terms` reads attempts: an attempt that contains a note's terms follows it, so each attempt tests the notes that it
agrees with. Exact where texts are short and formal. `by_effect` tries notes: what contexts that show one lead to,
against contexts that hold it out. It works on prose, as it reads no words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pmd.services.memory.ledger import Item

BELIEVED = 0.3
"""Notes less credible than this are not shown."""


@dataclass(frozen=True)
class Belief:
    """How far a note is believed, in [0, 1], and the evidence in words."""

    credibility: float
    evidence: str
    tested: bool = True
    """False: nothing speaks for or against it yet."""


@dataclass(frozen=True)
class Contradiction:
    """Two notes that must not be shown together."""

    by: str = ""
    """Who says so; empty: their words."""


class Statement(Protocol):
    """What would be shown of an item."""

    @property
    def item(self) -> Item: ...

    @property
    def text(self) -> str: ...


class Beliefs(Protocol):
    """What is believed at the problems that a snapshot was read for."""

    def claim(self, item: Item, text: str, home: str, problem_id: str) -> Belief:
        """Of a text that says how to solve `problem_id`, written about the problem `home`."""
        ...

    def rule(self, item: Item, problem_id: str) -> Belief:
        """Of a behavior."""
        ...

    def warning(self, item: Item, problem_id: str) -> Belief:
        """Of a lesson of the problem."""
        ...

    def contradict(self, a: Statement, b: Statement, problem_id: str) -> Contradiction | None:
        """Why two statements about a problem must not be shown together; None when they may. A lesson contradicts what
        it warns of."""
        ...
