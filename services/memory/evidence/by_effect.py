"""Beliefs by effect: what the attempts that read a note were rewarded with, against those that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pmd.services.memory.evidence.beliefs import Belief, Statement
from pmd.services.memory.evidence.effect import Outcomes, effect_at
from pmd.services.memory.evidence.quality import disagree
from pmd.services.memory.ledger import Item

ALIKE = 0.75
"""Cosine similarity from which two notes are about the same thing."""


@dataclass(frozen=True)
class ByEffect:
    """What notes led to, and how alike they are. A `Beliefs`."""

    outcomes: Mapping[str, Mapping[str, Outcomes]]
    """By item, by problem."""
    vectors: Mapping[str, npt.NDArray[np.float32]]
    """By text, unit length, float32 [dimensions]: of every insight and behavior that may be shown."""

    def claim(self, item: Item, text: str, home: str, problem_id: str) -> Belief:  # noqa: ARG002 -- a `Beliefs`
        """By its effect at the problem; what it did elsewhere counts a little."""
        return self._effect(item, problem_id)

    def rule(self, item: Item, problem_id: str) -> Belief:
        """As a claim: whoever writes a rule has no better evidence for it."""
        return self._effect(item, problem_id)

    def warning(self, item: Item, problem_id: str) -> Belief:
        """As a claim."""
        return self._effect(item, problem_id)

    def contradict(self, a: Statement, b: Statement, problem_id: str) -> bool:  # noqa: ARG002 -- a `Beliefs`
        """Whether two notes are alike, and one says another number or denies what the other says."""
        row, other = self.vectors.get(a.text), self.vectors.get(b.text)
        if row is None or other is None or float(row @ other) < ALIKE:
            return False
        return disagree(a.text, b.text)

    def forbids(self, lesson: Statement, plans: Sequence[Statement], problem_id: str) -> bool:
        """Whether the lesson contradicts a plan."""
        return any(self.contradict(lesson, plan, problem_id) for plan in plans)

    def _effect(self, item: Item, problem_id: str) -> Belief:
        found = effect_at(problem_id, self.outcomes.get(item.id, {}))
        return Belief(found.belief, str(found), found.tested)
