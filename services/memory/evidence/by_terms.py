"""Beliefs by terms: how the attempts that follow a note fared, at the problems that it speaks about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pmd.services.memory.evidence.applicability import Applicability
from pmd.services.memory.evidence.beliefs import Belief, Contradiction, Statement
from pmd.services.memory.evidence.credibility import (
    STRATEGY_PRIOR,
    Attempt,
    approaches,
    behavior_prior,
    contradicts,
    credibility,
    record,
)
from pmd.services.memory.evidence.terms import AGREE, coverage, terms
from pmd.services.memory.ledger import Item


@dataclass(frozen=True)
class ByTerms:
    """The attempts that notes are measured by. A `Beliefs`."""

    applicability: Applicability
    attempts: Mapping[str, Sequence[Attempt]]
    """By problem, oldest first: of the asked problems, and of all that a note which may be claimed speaks about."""
    attempted: Mapping[str, frozenset[str]]
    """Terms of the attempts at each asked problem: what claims about it can be compared by."""
    base_pass_rate: float
    """How often attempts pass that no memory has taught, in [0, 1): notes are credited with what goes beyond."""
    behavior_pass_rate: float
    """How often attempts that follow any of the behaviors pass."""
    vocabulary: frozenset[str]
    """Terms that the bank's strategies use: what a behavior can be compared by."""

    def claim(self, item: Item, text: str, home: str, problem_id: str) -> Belief:  # noqa: ARG002 -- a `Beliefs`
        """By the attempts that follow it at all problems that it speaks about."""
        seen = record(text, [a for pid in self.applicability.problems(text, home) for a in self.attempts.get(pid, ())])
        return Belief(
            credibility(STRATEGY_PRIOR, seen, base_pass_rate=self.base_pass_rate),
            f"{seen.passes} of {seen.trials} attempts that follow it passed",
        )

    def rule(self, item: Item, problem_id: str) -> Belief:
        """By how the different approaches to the problem that follow it fared."""
        seen = approaches(item.text, self.attempts.get(problem_id, ()))
        prior = behavior_prior(item.facts["support"], item.facts["members"])
        return Belief(
            credibility(prior, seen, base_pass_rate=self.base_pass_rate, blame=self.behavior_pass_rate),
            f"{item.facts['support']} of {item.facts['members']} problems agree; "
            f"{seen.passes} of {seen.trials} approaches here that follow it passed",
        )

    def warning(self, item: Item, problem_id: str) -> Belief:
        """Believed, unless attempts that do what it warns of mostly pass."""
        seen = record(item.text, self.attempts.get(problem_id, ()))
        refuted = seen.trials and seen.passes / seen.trials > 0.5
        return Belief(0.0 if refuted else 1.0, f"{seen.passes} of {seen.trials} attempts that do this passed")

    def contradict(self, a: Statement, b: Statement, problem_id: str) -> Contradiction | None:
        """By words alone."""
        return Contradiction() if self._contradict(a, b, problem_id) else None

    def _contradict(self, a: Statement, b: Statement, problem_id: str) -> bool:
        """Two claims about a problem are compared by what attempts can show, not by the names they share. A lesson
        warns of a claim that it has all of; two lessons warn of two things, and rules are tried, not warned of."""
        if "lesson" in {a.item.kind, b.item.kind}:
            lesson, plan = (a, b) if a.item.kind == "lesson" else (b, a)
            if plan.item.kind == "lesson" or plan.item.level == "behavior":
                return False
            attempted = self.attempted[problem_id]
            return coverage(terms(plan.text), attempted, terms(lesson.text)) >= AGREE
        if "behavior" not in {a.item.level, b.item.level}:
            return contradicts(terms(a.text), terms(b.text), self.attempted[problem_id])
        broad, narrow = (a, b) if a.item.level == "behavior" else (b, a)
        return contradicts(terms(broad.text), terms(narrow.text), self.vocabulary)
