"""Reading what a model wrote as reflection or abstraction: one note a line, each line labelled.

    Strategy: rotate first, then add 3.
    Lesson: adding before rotating fails.
    Behavior: every zor begins with rotate.

A line in which the model runs in circles (`rotate rotate`, `tav trail tav trail`) is no note. The single word
`None` says that there is nothing to note. Anything without a labelled line is invalid, and the caller asks once
more. Lines beyond the budget are dropped, not an error: models like to go on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pmd.services.memory.ledger import Banned

_LINE = re.compile(r"^\W{0,4}(strategy|lesson|behavior|behaviour)\W{0,2}\s*:\W{0,2}\s*(.+?)\s*$", re.IGNORECASE)
_NOTHING = re.compile(r"^\W*none\W*$", re.IGNORECASE)

_CIRCLE = re.compile(r"\b([^\W\d]\w*(?:\W+\w+){0,7}?)\s+\1\b", re.IGNORECASE)
"""Words, up to eight, and at once the same again. Numbers alone may repeat."""

MAX_LINE_CHARS = 600
"""Longer lines are no notes: the model copied something."""


class InvalidNotes(ValueError):
    """The model's answer holds no note and does not say `None`."""


@dataclass(frozen=True)
class Insight:
    """What is known about one problem."""

    strategies: tuple[str, ...] = ()
    lessons: tuple[str, ...] = ()

    def without(self, banned: Banned) -> Insight:
        """What is left when what people have banned goes."""
        left = (tuple(t for t in texts if not banned.says(t)) for texts in (self.strategies, self.lessons))
        return Insight(*left)


def _labelled(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"strategy": [], "lesson": [], "behavior": []}
    for line in text.replace("\0", "\ufffd").splitlines():  # databases keep no NUL
        match = _LINE.match(line)
        if match and len(match[2]) <= MAX_LINE_CHARS and not _CIRCLE.search(match[2]):
            label = match[1].lower().replace("behaviour", "behavior")
            if match[2] not in found[label]:
                found[label].append(match[2])
    return found


def _check(text: str, notes: list[str]) -> None:
    if not notes and not any(_NOTHING.match(line) for line in text.splitlines()):
        raise InvalidNotes(f"no labelled line in the model's answer: {text[:200]!r}")


def parse_insight(text: str, budget: int) -> Insight:
    """Strategies and lessons in a reflection, at most `budget` of each.

    Raises:
        InvalidNotes: when there is neither a labelled line nor `None`.
    """
    found = _labelled(text)
    _check(text, found["strategy"] + found["lesson"])
    return Insight(tuple(found["strategy"][:budget]), tuple(found["lesson"][:budget]))


def parse_behaviors(text: str, budget: int) -> tuple[str, ...]:
    """Behaviors in an abstraction, at most `budget`.

    Raises:
        InvalidNotes: when there is neither a labelled line nor `None`.
    """
    found = _labelled(text)
    _check(text, found["behavior"])
    return tuple(found["behavior"][:budget])
