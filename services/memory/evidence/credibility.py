"""What attempts say about notes: records, credibility, support, and which of two contradicting notes to show.

Notes are believed as far as verdicts bear them out. An attempt *follows* a note when it contains the note's
testable terms. The record of a note is how many of the attempts that follow it passed, at the problems that it speaks
about (`applicability`). It is computed anew from the attempts that the bank holds, so a note that once was a lucky hit
is forgotten when later attempts refute it, and an exception to a rule is learnt where it occurs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pmd.services.memory.evidence.terms import AGREE, coverage, terms, union


@dataclass(frozen=True)
class Attempt:
    """One verified rollout, as evidence."""

    rollout_id: str
    step: int
    text: str
    """Excerpt: the approach that the attempt took."""
    passed: bool
    feedback: str = ""

    @cached_property
    def terms(self) -> frozenset[str]:
        return terms(self.text)


@dataclass(frozen=True)
class Tally:
    """How the attempts that follow a note fared."""

    passes: int = 0
    trials: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.passes + other.passes, self.trials + other.trials)

    @property
    def rate(self) -> float:
        """Pass rate, undecided at first (Laplace)."""
        return (self.passes + 1) / (self.trials + 2)


@dataclass(frozen=True)
class Prior:
    """What is believed of a note before this problem's attempts are looked at."""

    mean: float
    strength: float
    """Worth this many attempts."""


STRATEGY_PRIOR = Prior(mean=0.5, strength=2.0)
"""A strategy starts undecided: a third of lucky passes has a wrong reason."""

BEHAVIOR_STRENGTH = 4.0
"""A rule that many problems share is worth four attempts at this one, so an exception needs about that many
failures to outweigh it."""

RELATED = 0.3
"""Overlap from which two notes are about the same thing."""


def _following(note: str, attempts: Sequence[Attempt]) -> list[Attempt]:
    vocabulary = union(a.terms for a in attempts)
    wanted = terms(note)
    return [a for a in attempts if coverage(wanted, vocabulary, a.terms) >= AGREE]


def record(note: str, attempts: Sequence[Attempt]) -> Tally:
    """How the attempts that follow `note` fared."""
    following = _following(note, attempts)
    return Tally(passes=sum(a.passed for a in following), trials=len(following))


def approaches(note: str, attempts: Sequence[Attempt]) -> Tally:
    """How the different approaches that follow `note` fared; one passed if at least half of its attempts did.

    For a note that says only part of an approach. Attempts that read alike share the rest too, so eight of them
    that fail blame the note no more than one does.
    """
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for one in _following(note, attempts):
        verdicts[one.text].append(one.passed)
    return Tally(passes=sum(2 * sum(passed) >= len(passed) for passed in verdicts.values()), trials=len(verdicts))


def borne_out(note: str, attempts: Sequence[Attempt], *, passed: bool) -> bool:
    """Whether an attempt with this outcome did what `note` says.

    A note that has little in common with every attempt is written in other words than they are: then nothing can
    be checked, and it is let through. A note that comes close to attempts, but agrees with none, is a slip.
    """
    vocabulary = union(a.terms for a in attempts)
    wanted = terms(note)
    agreement = [coverage(wanted, vocabulary, a.terms) for a in attempts]
    if max(agreement, default=0.0) < RELATED:
        return any(a.passed == passed for a in attempts)
    return any(score >= AGREE and a.passed == passed for score, a in zip(agreement, attempts, strict=True))


def credibility(prior: Prior, seen: Tally, *, base_pass_rate: float = 0.0, blame: float = 1.0) -> float:
    """How far attempts that follow a note pass more often than attempts do anyway, in [0, 1].

    Posterior mean of a Beta distribution over passes beyond the base rate: 0 for a note whose followers pass as often
    as anybody, 1 for one whose followers always pass.

    Args:
        base_pass_rate: how often attempts pass whatever they do, in [0, 1). Of four options a wrong approach picks the
            right one in a quarter of the cases: without this, lucky answers would fill the memory.
        blame: how much of an attempt a failure counts. 1 for a note that says the whole approach. An attempt that
            follows a rule about a part fails mostly for its other parts: there, how often attempts that follow
            such rules pass at all.
    """
    passes = max(0.0, (seen.passes - base_pass_rate * seen.trials) / (1 - base_pass_rate))
    failures = blame * (seen.trials - passes)
    return (prior.mean * prior.strength + passes) / (prior.strength + passes + failures)


def behavior_prior(support: int, members: int) -> Prior:
    """The prior of a behavior that `support` of `members` insights agree with."""
    return Prior(mean=Tally(support, members).rate, strength=BEHAVIOR_STRENGTH)


@dataclass(frozen=True)
class Support:
    """How many of a cluster's problems agree with a rule."""

    agreeing: int
    members: int

    @property
    def purity(self) -> float:
        return self.agreeing / self.members if self.members else 0.0


def support(rule: str, strategies: Sequence[str], shared: frozenset[str]) -> Support:
    """How many insights of a cluster agree with `rule`.

    Args:
        strategies: one text per problem of the cluster that has a strategy (several joined).
        shared: terms that all problems of the cluster have in common. A rule that says nothing beyond them
            is empty and has no support.
    """
    sets = [terms(s) for s in strategies]
    vocabulary = union(sets)
    wanted = terms(rule)
    if not (wanted & vocabulary) - shared:
        return Support(0, len(sets))
    return Support(sum(coverage(wanted, vocabulary, have) >= AGREE for have in sets), len(sets))


def contradicts(note: frozenset[str], other: frozenset[str], vocabulary: frozenset[str]) -> bool:
    """Whether two notes are about the same thing and say something else of it.

    Notes that share nothing testable are about different things; notes that share nearly all agree. What lies
    between, shares some and differs in some, contradicts: `zor: rotate` against `zor-mil: reverse, add 3`.

    Args:
        note: terms of the broader note.
        vocabulary: terms of the evidence that such notes are drawn from; other terms are not testable.
    """
    return RELATED <= coverage(note, vocabulary, other) < AGREE
