"""Beliefs by effect: what the attempts that read a note were rewarded with, against those that did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pmd.services.memory.evidence.beliefs import Belief, Contradiction, Statement
from pmd.services.memory.evidence.effect import Outcomes, effect_at
from pmd.services.memory.evidence.quality import disagree
from pmd.services.memory.ledger import Item
from pmd.services.memory.ledger.judgements import Judgement, Pair, pair

ALIKE = 0.75
"""Cosine by the embedder in force from which two notes are about the same thing."""
SAME_WORDS = 0.75
"""Cosine by `hash` from which two notes are told apart by a word or two, or say the same: either way one is enough."""
LIKE_WORDS = 0.5
"""Cosine by `hash` from which two notes are about the same thing."""
Rows = Mapping[str, npt.NDArray[np.float32]]
"""By text, unit length, float32 [dimensions]: of every insight and behavior that may be shown."""


@dataclass(frozen=True)
class ByEffect:
    """What notes led to, and how alike they are. A `Beliefs`."""

    outcomes: Mapping[str, Mapping[str, Outcomes]]
    """By item, by problem."""
    meaning: Rows
    """By the embedder in force."""
    spelling: Rows
    """By `hash`, whichever is in force."""
    judged: Mapping[Pair, Judgement] = field(default_factory=dict)
    """What a model said of pairs."""

    def claim(self, item: Item, text: str, home: str, problem_id: str) -> Belief:  # noqa: ARG002 -- a `Beliefs`
        """By its effect at the problem; what it did elsewhere counts a little."""
        return self._effect(item, problem_id)

    def rule(self, item: Item, problem_id: str) -> Belief:
        """As a claim: whoever writes a rule has no better evidence for it."""
        return self._effect(item, problem_id)

    def warning(self, item: Item, problem_id: str) -> Belief:
        """As a claim."""
        return self._effect(item, problem_id)

    def contradict(self, a: Statement, b: Statement, problem_id: str) -> Contradiction | None:  # noqa: ARG002 -- a `Beliefs`
        """By what a model said of the two, if it was asked; else by whether they say nearly the same words, or the like
        and disagree."""
        said = self.judged.get(pair(a.text, b.text)) if self.judged else None
        if said is not None:
            return Contradiction(f"{said.model} said so in step {said.step}") if said.apart else None
        spelling = _cosine(self.spelling, a, b)
        like = spelling >= LIKE_WORDS or _cosine(self.meaning, a, b) >= ALIKE
        return Contradiction() if spelling >= SAME_WORDS or (like and disagree(a.text, b.text)) else None

    def _effect(self, item: Item, problem_id: str) -> Belief:
        found = effect_at(problem_id, self.outcomes.get(item.id, {}))
        return Belief(found.credibility, str(found), found.tested)


def _cosine(rows: Rows, a: Statement, b: Statement) -> float:
    """0 where a vector is not at hand: of attempts."""
    row, other = rows.get(a.text), rows.get(b.text)
    return 0.0 if row is None or other is None else float(row @ other)
