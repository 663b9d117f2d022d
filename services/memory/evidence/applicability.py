"""Applicability of a note: the problems that it speaks about.

A note is written about one problem, its home, and calls some of what that problem asks for by name. It speaks about
every problem that mentions all of these names: `zor-mil: rotate then add 3.` about all problems that ask for zor-mil,
and not about those that ask for zor-kem. Attempts at all of them are evidence for the note, and the note may serve
them all. A note that names nothing of its home speaks about its home alone, as do notes on free text as a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pmd.services.memory.evidence.terms import MAX_SHARE, terms


class Applicability:
    """The problems of a bank by what they mention."""

    def __init__(self, questions: Mapping[str, str]) -> None:
        """`questions`: problem id to text."""
        self._mentions = {pid: terms(text) for pid, text in questions.items()}
        counts = Counter(term for mentioned in self._mentions.values() for term in mentioned)
        limit = MAX_SHARE * len(self._mentions)
        self._common = frozenset(term for term, count in counts.items() if count > limit)
        self._problems: dict[frozenset[str], tuple[str, ...]] = {}

    def names(self, note: str, home: str) -> frozenset[str]:
        """What `note` calls by name of what its home asks for; terms that most problems use are no names."""
        return (terms(note) & self._mentions[home]) - self._common

    def problems(self, note: str, home: str) -> tuple[str, ...]:
        """The problems that `note` speaks about, its home among them."""
        names = self.names(note, home)
        if not names:
            return (home,)
        if names not in self._problems:
            self._problems[names] = tuple(pid for pid, mentioned in self._mentions.items() if names <= mentioned)
        return self._problems[names]
