"""Quality controls of notes. Pure functions, each switched by a key of `memory.quality` in the recipe.

duplicates: a note that says what a standing one says is that one. staleness: what no step has confirmed for long
goes. eviction: a bank has a budget. hold-out: what an item is worth shows against contexts that it was held out of by
chance (a bare average only says that hard problems get many notes). What people hold is never touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from importlib.resources import files

import yaml

from pmd.services.memory.evidence.terms import similarity, terms
from pmd.services.memory.ledger import Item, fingerprint

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NEGATION = re.compile(r"\b(?:not|never|no|without|avoid|instead|don't|doesn't|isn't|can't)\b|n't\b", re.IGNORECASE)

_WORD = re.compile(r"[a-z]+")
OPPOSITES = [
    (frozenset(words.split()), frozenset(contrary.split()))
    for words, contrary in yaml.safe_load((files(__package__) / "opposites.yaml").read_text())
]
"""Words, and words that say the opposite of them."""


def same(a: str, b: str, near: float | None = None) -> bool:
    """Whether two notes say the same: but for case, spacing and final stops, or nearly.

    Args:
        near: share of terms in common from which they nearly do; None: only the former. Notes with different
            numbers, or of which one negates, are never nearly the same.
    """
    if fingerprint(a) == fingerprint(b):
        return True
    return near is not None and not disagree(a, b) and similarity(terms(a), terms(b)) >= near


def disagree(a: str, b: str) -> bool:
    """Whether two notes about the same thing have other numbers, or turn what the other says into its opposite: each
    negation that one has more turns it, and each word whose opposite stands in the other. Turned twice is not turned:
    `divide by the mass` and `never multiply by the mass` agree."""
    if sorted(_NUMBER.findall(a)) != sorted(_NUMBER.findall(b)):
        return True
    words, others = (frozenset(_WORD.findall(text.lower())) for text in (a, b))
    only, others_only = words - others, others - words
    turns = sum(bool(x & only and y & others_only) + bool(y & only and x & others_only) for x, y in OPPOSITES)
    return (turns + len(_NEGATION.findall(a)) - len(_NEGATION.findall(b))) % 2 == 1


def without_duplicates(written: Sequence[str], standing: Sequence[str], near: float | None = None) -> tuple[str, ...]:
    """What was written, each thought once and in the words that stood before, where it stood before."""
    kept: list[str] = []
    for text in written:
        known = next((s for s in standing if same(text, s, near)), text)
        if not any(same(known, k, near) for k in kept):
            kept.append(known)
    return tuple(kept)


def surplus(items: Sequence[Item], count: int) -> list[Item]:
    """The `count` notes to evict: least confirmed first, then least supported. Protected ones stay."""
    worth: Callable[[Item], tuple[int, int, int, str]] = lambda i: (  # noqa: E731
        i.step,
        int(i.facts.get("support", 1)),
        int(i.facts.get("passes", 0)),
        i.text,
    )
    return sorted((i for i in items if not i.protected), key=worth)[: max(0, count)]


def held_out(step: int, problem_id: str, text: str, share: float) -> bool:
    """Whether chance holds a note out of a problem's contexts in a step: independent of all else, and the same in
    every bank that holds the note (Law 10)."""
    digest = hashlib.blake2b(f"{step}/{problem_id}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 < share
