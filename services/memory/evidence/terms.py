"""Texts as sets of terms: the measure by which attempts, notes and rules are compared without a model.

A term is a maximal run of letters, digits or underscores, lower-cased. The measures are deterministic and
cheap, and exact where texts are short and formal. On long free text they are merely cautious: two
paraphrases do not count as agreeing, and nothing is concluded from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TERM = re.compile(r"[^\W]+", re.UNICODE)
_ANSWER = re.compile(r"```|<answer>", re.IGNORECASE)
_THINK = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)

_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)

AGREE = 0.9
"""Coverage or similarity from which two texts count as saying the same."""

MAX_SHARE = 0.5
"""A term that more than half of the problems use tells none of them apart."""


def terms(text: str) -> frozenset[str]:
    """The distinct terms of a text."""
    return frozenset(_TERM.findall(text.lower()))


def coverage(note: frozenset[str], vocabulary: frozenset[str], evidence: frozenset[str]) -> float:
    """Share of a note's testable terms that a piece of evidence contains; 0 when nothing is testable.

    A term is testable when some evidence of the same kind uses it (`vocabulary`): words that only notes use
    ("always", "begins") say nothing about whether an attempt follows the note.
    """
    testable = note & vocabulary
    return len(testable & evidence) / len(testable) if testable else 0.0


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity of two term sets; 0 when both are empty."""
    union = a | b
    return len(a & b) / len(union) if union else 0.0


def union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    """All terms of several texts."""
    return frozenset().union(*sets)


def without_thinking(text: str) -> str:
    """An attempt as it may be shown in full: hidden thinking removed."""
    return _THOUGHT.sub("", text).strip()


def excerpt(text: str, chars: int) -> str:
    """What an attempt says before it gives its answer: its approach, at most `chars` long, cut at a line end.

    Hidden thinking is left out, and so is everything from the first code fence or answer tag on. A first line
    longer than `chars` is cut in the middle: there is no line end to use.
    """
    visible = _ANSWER.split(_THINK.sub("", text), maxsplit=1)[0].strip()
    if len(visible) <= chars:
        return visible
    head = visible[: chars + 1]
    cut = head.rfind("\n")
    return (head[:cut] if cut > 0 else head[:chars]).rstrip()
