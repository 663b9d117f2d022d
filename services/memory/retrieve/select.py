"""Which notes a teacher gets to see for one problem: found, believed, and free of contradiction.

A pure function of the problem, the snapshot and the settings.

1. Found: the problem's own strategies and lessons, strategies of other problems that speak about it (`reach`), its
   past attempts, and the behaviors whose topic it mentions (or that lie nearest, for behaviors without a topic).
   Where the recipe asks for it (`retrieval.by_meaning`), the index is searched besides: for behaviors whatever their
   topic, and, where no strategy that speaks about the problem is believed, for those of problems that ask the like.
   Beside a strategy of its own they only mislead: pocket ended at .87 with them and at 1.00 without.
2. Believed: each note's record, on top of its prior, gives its credibility; notes below `BELIEVED` are left out.
   What a person pinned or wrote is believed.
3. Safe: it neither gives the answer away nor says what a person has banned.
4. Consistent (`conflicts: resolve`): notes are taken in order of credibility, and one that contradicts a note
   already taken is left out. A reader of two contradicting notes follows either; in the
   experiments behind the design one wrong behavior beside a right insight takes accuracy from .96 to .18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pmd.services.common.options import ContextSettings
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.credibility import (
    BELIEVED,
    STRATEGY_PRIOR,
    Attempt,
    approaches,
    behavior_prior,
    contradicts,
    credibility,
    record,
)
from pmd.services.memory.evidence.terms import AGREE, coverage, terms, union
from pmd.services.memory.leak.guard import leak
from pmd.services.memory.ledger import Item
from pmd.services.memory.retrieve.snapshot import Evidence, Found, ProblemMemory, Snapshot


@dataclass(frozen=True)
class Note:
    """A note that may be shown, and why."""

    item: Item
    text: str
    """What is shown: the item's text, or the head of an attempt."""
    credibility: float
    score: float
    """Similarity to the problem; 1 for notes that speak about this very problem."""
    reason: str

    @cached_property
    def terms(self) -> frozenset[str]:
        return terms(self.text)


@dataclass(frozen=True)
class Selection:
    """The notes chosen for one problem, by the place they take in the prompt."""

    strategies: tuple[Note, ...] = ()
    lessons: tuple[Note, ...] = ()
    behaviors: tuple[Note, ...] = ()
    experiences: tuple[Note, ...] = ()

    @property
    def notes(self) -> tuple[Note, ...]:
        """All notes, most specific first."""
        return (*self.strategies, *self.experiences, *self.behaviors, *self.lessons)

    def within(self, chars: int) -> Selection:
        """The selection without its last notes, so that the rest is at most `chars` long."""
        left = chars
        kept: set[str] = set()
        for note in self.notes:
            left -= len(note.text) + 1
            if left < 0:
                break
            kept.add(note.item.id)

        return self.filtered(lambda note: note.item.id in kept)

    def filtered(self, keep: Callable[[Note], bool]) -> Selection:
        """The selection with only the notes that `keep` wants."""
        parts = (self.strategies, self.lessons, self.behaviors, self.experiences)
        return Selection(*(tuple(n for n in notes if keep(n)) for notes in parts))


def select(problem: Problem, snapshot: Snapshot, settings: ContextSettings, *, leak_guard: bool = True) -> Selection:
    """The notes for one problem that `snapshot` was read for.

    Args:
        leak_guard: leave out notes that give the problem's answer away.
    """
    memory = snapshot.problems[problem.id]
    attempts = snapshot.evidence.attempts.get(problem.id, ())
    attempted = union(a.terms for a in attempts)
    passed = [item.text for item in memory.experience if item.facts["passed"]]
    past: list[tuple[Item, Attempt]] = []
    if "experience" in settings.levels and not settings.transient:
        past = [(i, a) for i, a in zip(memory.experience, attempts, strict=True) if a.step < snapshot.step]

    def safe(note: Note) -> bool:
        if snapshot.bans.forbids(note.item, note.text):
            return False
        # Insights were guarded when they were written. People and imports write what they like, behaviors and notes
        # that speak about this problem too come from others, and attempts are shown as they are: each note is checked
        # for each problem that it is shown for, before it can take the place of another.
        return not leak_guard or leak(note.text, problem, passed) is None

    claims = _strategies(problem.id, memory, snapshot.evidence)
    for item, seen in _newest([(i, a) for i, a in past if a.passed]):
        claims.append(_claim(item, seen.text, problem.id, "passed attempt of an earlier step", snapshot.evidence))
    candidates = [*claims, *_behaviors(problem, memory, attempts, snapshot, settings)]
    believed = sorted((n for n in candidates if n.credibility >= BELIEVED), key=lambda n: -n.credibility)
    conflict = _conflict(attempted, snapshot.evidence.vocabulary) if settings.conflicts == "resolve" else _never
    chosen = _consistent(believed, conflict, safe)
    warned = [note for item in memory.lessons if (note := _warning(item, attempts)) is not None]
    warnings = list(filter(safe, warned))
    if not warnings:
        # A lesson says it already. The attempt word for word is what a model that looks things up repeats.
        failures = [_failure(item, seen) for item, seen in _newest([(i, a) for i, a in past if not a.passed])]
        chosen += filter(safe, failures)
    plans = [n for n in chosen if n.item.level == "insight" or n.item.facts.get("passed")]
    return Selection(
        strategies=tuple(n for n in chosen if n.item.level == "insight"),
        lessons=tuple(n for n in warnings if n.item.held or not _forbids(n, plans, attempted)),
        behaviors=tuple(n for n in chosen if n.item.level == "behavior"),
        experiences=tuple(n for n in chosen if n.item.level == "experience"),
    ).within(settings.max_chars)


def _strategies(problem_id: str, memory: ProblemMemory, evidence: Evidence) -> list[Note]:
    """The strategies that speak about a problem; where none is believed, those of problems that ask the like too."""
    notes = []
    for item in memory.strategies:
        own = item.scope == problem_id
        why = "strategy of this problem" if own else f"strategy of {item.scope}, which speaks about this problem too"
        notes.append(_claim(item, item.text, item.scope, why, evidence))
    if not any(note.credibility >= BELIEVED for note in notes):
        claimed = {note.item.id for note in notes}
        for score, item in memory.alike:
            if item.id not in claimed:
                why = f"strategy of {item.scope}, which asks the like"
                notes.append(_claim(item, item.text, problem_id, why, evidence, score))
    return notes


def _claim(item: Item, text: str, home: str, reason: str, evidence: Evidence, score: float = 1.0) -> Note:
    """A note that says how to solve a problem, with its record at all problems that it speaks about."""
    seen = evidence.of(text, home)
    return Note(
        item,
        text,
        _belief(item, credibility(STRATEGY_PRIOR, seen, chance=evidence.base_pass_rate)),
        score,
        f"{_stands_behind(item)}{reason}; {seen.passes} of {seen.trials} attempts that follow it passed",
    )


def _failure(item: Item, seen: Attempt) -> Note:
    return Note(item, seen.text, 1.0, 1.0, "failed attempt of an earlier step")


def _warning(item: Item, attempts: Sequence[Attempt]) -> Note | None:
    """A lesson, unless attempts that do what it warns of mostly pass."""
    seen = record(item.text, attempts)
    if seen.trials and seen.passes / seen.trials > 0.5 and not item.held:
        return None
    reason = (
        f"{_stands_behind(item)}lesson of this problem; {seen.passes} of {seen.trials} attempts that do this passed"
    )
    return Note(item, item.text, 1.0, 1.0, reason)


def _behaviors(
    problem: Problem,
    memory: ProblemMemory,
    attempts: Sequence[Attempt],
    snapshot: Snapshot,
    settings: ContextSettings,
) -> list[Note]:
    """The behaviors found for a problem, with how the approaches here that follow them fared."""
    notes = []
    for score, item in _found_behaviors(problem, memory, snapshot, settings):
        seen = approaches(item.text, attempts)
        prior = behavior_prior(item.facts["support"], item.facts["members"])
        reason = (
            f"{_stands_behind(item)}{item.facts['support']} of {item.facts['members']} problems agree; "
            f"{seen.passes} of {seen.trials} approaches here that follow it passed"
        )
        belief = credibility(
            prior, seen, chance=snapshot.evidence.base_pass_rate, blame=snapshot.evidence.behavior_pass_rate
        )
        notes.append(Note(item, item.text, _belief(item, belief), score, reason))
    return notes


def _found_behaviors(
    problem: Problem, memory: ProblemMemory, snapshot: Snapshot, settings: ContextSettings
) -> list[Found]:
    """Up to `k` behaviors by topic or, without one, by similarity; then those that the index finds."""
    if memory.likeness is None:
        return []
    mentioned = terms(problem.question())
    found = [
        Found(float(similarity), behavior.item)
        for similarity, behavior in zip(memory.likeness, snapshot.behaviors, strict=True)
        if (behavior.topic and behavior.topic <= mentioned)
        or (not behavior.topic and memory.searched is None and similarity >= settings.min_similarity)
    ]
    found.sort(key=lambda one: (not one.item.held, -one.similarity, one.item.text))
    del found[settings.k :]
    by_topic = {one.item.id for one in found}
    return found + [one for one in memory.searched or () if one.item.id not in by_topic]


Conflict = Callable[[Note, Note], bool]


def _never(a: Note, b: Note) -> bool:  # noqa: ARG001 -- a `Conflict`
    return False


def _conflict(attempted: frozenset[str], vocabulary: frozenset[str]) -> Conflict:
    """Whether two notes contradict each other.

    Args:
        attempted: terms of the attempts at the problem. Two claims about it are compared by what attempts can show,
            not by the names they share.
        vocabulary: terms that strategies use: what a behavior can be compared by.
    """

    def contradict(a: Note, b: Note) -> bool:
        if "behavior" not in {a.item.level, b.item.level}:
            return contradicts(a.terms, b.terms, attempted)
        broad, narrow = (a, b) if a.item.level == "behavior" else (b, a)
        return contradicts(broad.terms, narrow.terms, vocabulary)

    return contradict


def _consistent(notes: Sequence[Note], conflict: Conflict, safe: Callable[[Note], bool]) -> list[Note]:
    """The safe ones of `notes`, best first, without those that contradict a better one."""
    kept: list[Note] = []
    for note in notes:
        # Whether a note is safe is asked last, as that takes longest.
        if not any(conflict(note, better) for better in kept) and safe(note):
            kept.append(note)
    return kept


def _newest(attempts: Sequence[tuple[Item, Attempt]]) -> Sequence[tuple[Item, Attempt]]:
    """The attempt to show: the newest that a person pinned, else the newest."""
    return [pair for pair in attempts if pair[0].held][-1:] or attempts[-1:]


def _belief(item: Item, evidence: float) -> float:
    """A note's credibility: what a person stands behind is believed."""
    return 1.0 if item.held else evidence


def _stands_behind(item: Item) -> str:
    if not item.held:
        return ""
    return "pinned by a person; " if item.pinned else "a person's wording; "


def _forbids(lesson: Note, plans: Sequence[Note], vocabulary: frozenset[str]) -> bool:
    """Whether a lesson warns of what a chosen plan does."""
    return any(coverage(plan.terms, vocabulary, lesson.terms) >= AGREE for plan in plans)


def counts(selections: Mapping[str, Selection]) -> dict[str, int]:
    """How many selections show each level."""
    levels: tuple[Level, ...] = ("experience", "insight", "behavior")
    return {level: sum(any(n.item.level == level for n in s.notes) for s in selections.values()) for level in levels}
