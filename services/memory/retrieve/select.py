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
5. Shown as turns (`render`): the newest passed attempt at each of the problems that ask the like, whole, so never one
   at the problem itself. A passed attempt is its answer: what says the problem's own is left out. Not so an answer that
   two other problems share (a label of the task), nor the letter of another question's options; without the right label
   among them, turns would only say which one it is.
6. Fitting (`max_chars`): notes are shown whole. One that does not fit is left out, and hides no other.

Invariant: what a person stands behind is shown, or the selection says why it is not (`left_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

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
from pmd.services.memory.evidence.terms import AGREE, coverage, excerpt, terms, union, without_thinking
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
    question: str = ""
    """What an attempt answers that is shown as a turn."""

    @cached_property
    def terms(self) -> frozenset[str]:
        return terms(self.text)

    def left_out(self, why: str) -> Note:
        """The note as one that is not shown."""
        return replace(self, reason=f"{why}; {self.reason}")


@dataclass(frozen=True)
class Selection:
    """The notes chosen for one problem, by the place they take in the prompt."""

    strategies: tuple[Note, ...] = ()
    lessons: tuple[Note, ...] = ()
    behaviors: tuple[Note, ...] = ()
    experiences: tuple[Note, ...] = ()
    turns: tuple[Note, ...] = ()
    """Attempts at other problems, nearest first."""
    left_out: tuple[Note, ...] = ()
    """Notes that there was no room for, and notes of people that are not shown for whatever reason; each says why."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """All notes, most specific first."""
        return (*self.strategies, *self.experiences, *self.turns, *self.behaviors, *self.lessons)

    @property
    def has_text(self) -> bool:
        """Whether the teacher template has any of it to show."""
        return len(self.notes) > len(self.turns)

    def within(self, chars: int) -> Selection:
        """The selection at `chars` characters or less; the notes that do not fit are left out.

        What people stand behind is fitted in first, then the most specific.
        """
        left = chars
        left_out = list(self.left_out)
        for note in sorted(self.notes, key=lambda n: not n.item.held):
            size = len(note.text) + len(note.question)
            if size < left:  # and one for the line's end
                left -= size + 1
            else:
                why = f"no room: {size} characters, and {left} of {chars} (context.max_chars) were left"
                left_out.append(note.left_out(why))
        gone = {note.item.id for note in left_out}
        return replace(self.filtered(lambda note: note.item.id not in gone), left_out=tuple(left_out))

    def filtered(self, keep: Callable[[Note], bool]) -> Selection:
        """The selection with only the notes that `keep` wants."""
        parts = ("strategies", "lessons", "behaviors", "experiences", "turns")
        return replace(self, **{part: tuple(n for n in getattr(self, part) if keep(n)) for part in parts})


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

    def objection(note: Note) -> str:
        if snapshot.bans.forbids(note.item, note.text):
            return "a person has banned what it says"
        # Insights were guarded when they were written. People and imports write what they like, behaviors and notes
        # that speak about this problem too come from others, and attempts are shown as they are: each note is checked
        # for each problem that it is shown for, before it can take the place of another.
        reason = leak(note.text, problem, passed) if leak_guard else None
        return f"gives the answer away: {reason}" if reason else ""

    claims = _strategies(problem.id, memory, snapshot.evidence)
    for item, seen in _newest([(i, a) for i, a in past if a.passed]):
        claims.append(_claim(item, seen.text, problem.id, "passed attempt of an earlier step", snapshot.evidence))
    behaviors, beyond = _behaviors(problem, memory, attempts, snapshot, settings)
    believed = [n for n in (*claims, *behaviors) if n.credibility >= BELIEVED]
    conflict = _conflict(attempted, snapshot.evidence.vocabulary) if settings.conflicts == "resolve" else _never
    chosen, left_out = _consistent(sorted(believed, key=lambda n: -n.credibility), conflict, objection)
    warned = [note for item in memory.lessons if (note := _warning(item, attempts)) is not None]
    warnings, unsafe = _consistent(warned, _never, objection)
    if not warnings:
        # A lesson says it already. The attempt word for word is what a model that looks things up repeats.
        failures = [_failure(item, seen) for item, seen in _newest([(i, a) for i, a in past if not a.passed])]
        chosen += _consistent(failures, _never, objection)[0]
    plans = [n for n in chosen if n.item.level == "insight" or n.item.facts.get("passed")]
    selection = Selection(
        strategies=tuple(n for n in chosen if n.item.level == "insight"),
        lessons=tuple(n for n in warnings if n.item.held or not _forbids(n, plans, attempted)),
        behaviors=tuple(n for n in chosen if n.item.level == "behavior"),
        experiences=tuple(n for n in chosen if n.item.level == "experience"),
        left_out=tuple(n for n in (*left_out, *unsafe, *beyond) if n.item.held),
    )
    if settings.render == "turns":
        why = "context.render: turns shows no notes"
        untold = tuple(n.left_out(why) for n in selection.notes if n.item.held)
        selection = Selection(left_out=(*selection.left_out, *untold))
    shown, unsafe = _consistent(_turns(memory), _never, partial(_gives_away, problem, snapshot, passed, leak_guard))
    selection = replace(selection, turns=tuple(shown[: settings.turns]))
    held = tuple(n for n in unsafe if n.item.held)
    return replace(selection, left_out=(*selection.left_out, *held)).within(settings.max_chars)


def _turns(memory: ProblemMemory) -> list[Note]:
    """Attempts at the problems that ask the like, as turns."""
    notes = []
    for similarity, question, item in memory.related:
        why = f"{_stands_behind(item)}passed attempt at {item.scope}, which asks the like, as a turn of the chat"
        if text := without_thinking(item.text):
            notes.append(Note(item, text, 1.0, similarity, why, question))
    return notes


def _gives_away(problem: Problem, snapshot: Snapshot, passed: Sequence[str], leak_guard: bool, turn: Note) -> str:
    """What speaks against a turn; empty where nothing does."""
    if snapshot.bans.forbids_solution(turn.item.scope, turn.text) or snapshot.bans.forbids(turn.item, turn.text):
        return "a person has banned what it says"
    if not leak_guard:
        return ""
    if problem.verifier.get("kind") == "choice":
        said = excerpt(turn.text, len(turn.text))  # without the letter at its end
    elif snapshot.problems[problem.id].common_answer:
        said = ""
    else:
        said = turn.text
    reason = leak(said, problem, passed) if said else None
    return f"gives the answer away: {reason}" if reason else ""


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
) -> tuple[list[Note], list[Note]]:
    """The behaviors found for a problem, with how the approaches here that follow them fared; and those beyond `k`."""
    if memory.likeness is None:
        return [], []
    mentioned = terms(problem.question())
    found = [
        Found(float(similarity), behavior.item)
        for similarity, behavior in zip(memory.likeness, snapshot.behaviors, strict=True)
        if (behavior.topic and behavior.topic <= mentioned)
        or (not behavior.topic and memory.searched is None and similarity >= settings.min_similarity)
    ]
    found.sort(key=lambda one: (not one.item.held, -one.similarity, one.item.text))
    first = found[: settings.k]
    by_topic = {one.item.id for one in first}
    first += [one for one in memory.searched or () if one.item.id not in by_topic]
    taken = {one.item.id for one in first}
    why = f"{settings.k} behaviors (retrieval.k) come before it"
    beyond = [one for one in found if one.item.held and one.item.id not in taken]
    return (
        [_rule(one, attempts, snapshot.evidence) for one in first],
        [_rule(one, attempts, snapshot.evidence).left_out(why) for one in beyond],
    )


def _rule(found: Found, attempts: Sequence[Attempt], evidence: Evidence) -> Note:
    """A behavior, with how the different approaches to the problem that follow it fared."""
    item = found.item
    seen = approaches(item.text, attempts)
    prior = behavior_prior(item.facts["support"], item.facts["members"])
    reason = (
        f"{_stands_behind(item)}{item.facts['support']} of {item.facts['members']} problems agree; "
        f"{seen.passes} of {seen.trials} approaches here that follow it passed"
    )
    belief = credibility(prior, seen, chance=evidence.base_pass_rate, blame=evidence.behavior_pass_rate)
    return Note(item, item.text, _belief(item, belief), found.similarity, reason)


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


def _consistent(
    notes: Sequence[Note], conflict: Conflict, objection: Callable[[Note], str]
) -> tuple[list[Note], list[Note]]:
    """Of `notes`, best first, those that may be shown together, and those that may not, each with the reason."""
    kept: list[Note] = []
    left_out: list[Note] = []
    for note in notes:
        better = next((better for better in kept if conflict(note, better)), None)
        # Whether a note is safe is asked last, as that takes longest.
        if why := f"contradicts {better.item.id}, which is more credible" if better else objection(note):
            left_out.append(note.left_out(why))
        else:
            kept.append(note)
    return kept, left_out


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
