"""Which notes a teacher gets to see for one problem: found, believed, and free of contradiction.

A pure function of the problem, the snapshot and the settings.

1. Found: the problem's own strategies and lessons, strategies of other problems that speak about it
   (`applicability`), its past attempts, and the behaviors whose topic it mentions (or that lie nearest, for behaviors
   without a topic).
   Where the recipe asks for it (`retrieval.by_meaning`), the index is searched besides: for behaviors whatever their
   topic, and, where no strategy that speaks about the problem is believed, for a few of problems that ask the like
   (`foreign`). Beside a strategy of its own they only mislead: pocket ended at .87 with them and at 1.00 without.
2. Believed: the evidence (`beliefs`) gives each note its credibility; notes below `BELIEVED` are left out. What a
   person pinned or wrote is believed.
3. Safe: it neither gives the answer away nor says what a person has banned.
4. Consistent (`conflicts: resolve`): notes are taken in order of credibility, the problem's own before those of
   others, and one that contradicts a note already taken is left out. A lesson gives way to a plan, unless a person
   stands behind it: then the plan goes. A reader of two contradicting notes follows either; in the
   experiments behind the design one wrong behavior beside a right insight takes accuracy from .96 to .18.
5. Shown as turns (`render`): the newest passed attempt at each of the problems that ask the like, whole, so never one
   at the problem itself. A passed attempt is its answer: what says the problem's own is left out. Not so an answer that
   two other problems share (a label of the task), nor the letter of another question's options; without the right label
   among them, turns would only say which one it is.
6. Fitting (`max_chars`): notes are shown whole. One that does not fit is left out, and hides no other.

Invariant: what was found is shown, or the selection says why it is not (`left_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pmd.services.common.bank import Cause
from pmd.services.common.options import ContextSettings
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.beliefs import BELIEVED, Belief, Beliefs, Contradiction
from pmd.services.memory.evidence.credibility import Attempt
from pmd.services.memory.evidence.terms import excerpt, terms, without_thinking
from pmd.services.memory.leak.guard import leak
from pmd.services.memory.ledger import Item, fingerprint
from pmd.services.memory.retrieve.near import Found
from pmd.services.memory.retrieve.snapshot import ProblemMemory, Snapshot

BEYOND = 32
"""Behaviors beyond `k` whose record says so; of people's all do."""


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
    tested: bool = True
    """False: nothing speaks for or against it yet."""
    question: str = ""
    """What an attempt answers that is shown as a turn."""
    cause: Cause | None = None
    """Why it is not shown."""

    def left_out(self, cause: Cause, why: str) -> Note:
        """The note as one that is not shown."""
        return replace(self, cause=cause, reason="; ".join(part for part in (why, self.reason) if part))


@dataclass(frozen=True)
class Selection:
    """The notes chosen for one problem, by the place they take in the prompt."""

    strategies: tuple[Note, ...] = ()
    lessons: tuple[Note, ...] = ()
    behaviors: tuple[Note, ...] = ()
    experiences: tuple[Note, ...] = ()
    turns: tuple[Note, ...] = ()
    """Attempts at other problems, nearest first."""
    foreign: tuple[Note, ...] = ()
    """Strategies of problems that ask the like, which the index found."""
    left_out: tuple[Note, ...] = ()
    """Notes that were found and are not shown; each says why."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """All notes, most specific first, those of other problems last."""
        own = (*self.strategies, *self.experiences, *self.turns, *self.behaviors, *self.lessons)
        return (*own, *self.foreign)

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
        for note in sorted(self.notes, key=lambda n: not n.item.protected):
            size = len(note.text) + len(note.question)
            if size < left:  # and one for the line's end
                left -= size + 1
            else:
                why = f"no room: {size} characters, and {left} of {chars} (context.max_chars) were left"
                left_out.append(note.left_out("no_room", why))
        gone = {note.item.id for note in left_out}
        return replace(self.filtered(lambda note: note.item.id not in gone), left_out=tuple(left_out))

    def filtered(self, keep: Callable[[Note], bool]) -> Selection:
        """The selection with only the notes that `keep` wants."""
        parts = ("strategies", "lessons", "behaviors", "experiences", "turns", "foreign")
        return replace(self, **{part: tuple(n for n in getattr(self, part) if keep(n)) for part in parts})


def select(problem: Problem, snapshot: Snapshot, settings: ContextSettings, *, leak_guard: bool = True) -> Selection:
    """The notes for one problem that `snapshot` was read for.

    Args:
        leak_guard: leave out notes that give the problem's answer away.
    """
    memory = snapshot.problems[problem.id]
    beliefs = snapshot.beliefs
    passed = [item.text for item in memory.experience if item.facts["passed"]]
    past: list[tuple[Item, Attempt]] = []
    if "experience" in settings.levels and not settings.transient:
        past = [(i, a) for i, a in zip(memory.experience, memory.attempts, strict=True) if a.step < snapshot.step]

    def objection(note: Note) -> Objection:
        if snapshot.bans.forbids(note.item, note.text):
            return BANNED
        # Insights were guarded when they were written. People and imports write what they like, behaviors and notes
        # that speak about this problem too come from others, and attempts are shown as they are: each note is checked
        # for each problem that it is shown for, before it can take the place of another.
        return _leaks(leak(note.text, problem, passed) if leak_guard else None)

    def conflict(a: Note, b: Note) -> Contradiction | None:
        warns = "lesson" in {a.item.kind, b.item.kind}
        return beliefs.contradict(a, b, problem.id) if warns or settings.conflicts == "resolve" else None

    claims = _strategies(problem.id, memory, beliefs)
    advised = any(note.credibility >= BELIEVED for note in claims)
    for item, seen in _newest([(i, a) for i, a in past if a.passed]):
        belief = beliefs.claim(item, seen.text, problem.id, problem.id)
        claims.append(_note(item, seen.text, belief, "passed attempt of an earlier step"))
    behaviors, beyond = _behaviors(problem, memory, snapshot, settings)
    believed = [n for n in (*claims, *behaviors) if n.credibility >= BELIEVED]
    doubted = [_doubted(n) for n in (*claims, *behaviors) if n.credibility < BELIEVED]
    chosen, left_out = _consistent(sorted(believed, key=lambda n: -n.credibility), conflict, objection)
    lessons = [_note(i, i.text, beliefs.warning(i, problem.id), "lesson of this problem") for i in memory.lessons]
    warned = sorted((n for n in lessons if n.credibility >= BELIEVED), key=lambda n: -n.credibility)
    doubted += [_doubted(n) for n in lessons if n.credibility < BELIEVED]
    warnings, unsafe = _consistent(warned, conflict, objection)
    insisted = [n for n in warnings if n.item.protected]
    chosen, displaced = _displaced(chosen, conflict, insisted)
    fitting, unfitting = _consistent(warnings, conflict, _nothing, beside=chosen)
    others = [] if advised else sorted(_foreign(problem.id, memory, beliefs), key=lambda n: -n.credibility)
    foreign, refused = _consistent(others, conflict, objection, beside=[*chosen, *fitting])
    why = f"{settings.foreign} strategies of other problems (retrieval.foreign) come before it"
    distant = [n.left_out("beyond_k", why) for n in foreign[settings.foreign :]]
    if not warnings:
        # A lesson says it already. The attempt word for word is what a model that looks things up repeats.
        failures = [_failure(item, seen) for item, seen in _newest([(i, a) for i, a in past if not a.passed])]
        chosen += _consistent(failures, _never, objection)[0]
    selection = Selection(
        strategies=tuple(n for n in chosen if n.item.level == "insight"),
        lessons=tuple(fitting),
        behaviors=tuple(n for n in chosen if n.item.level == "behavior"),
        experiences=tuple(n for n in chosen if n.item.level == "experience"),
        foreign=tuple(foreign[: settings.foreign]),
        left_out=(*left_out, *unsafe, *displaced, *unfitting, *refused, *distant, *beyond, *doubted),
    )
    if settings.render == "turns":
        why = "context.render: turns shows no notes"
        untold = tuple(n.left_out("render", why) for n in selection.notes)
        selection = Selection(left_out=(*selection.left_out, *untold))
    shown, unsafe = _consistent(_turns(memory), _never, partial(_gives_away, problem, snapshot, passed, leak_guard))
    selection = replace(selection, turns=tuple(shown[: settings.turns]))
    return replace(selection, left_out=(*selection.left_out, *unsafe)).within(settings.max_chars)


Objection = tuple[Cause, str] | None
"""What speaks against showing a note."""
BANNED: Objection = ("banned", "a person has banned what it says")


def _leaks(reason: str | None) -> Objection:
    return ("leaks", f"gives the answer away: {reason}") if reason else None


def _doubted(note: Note) -> Note:
    return note.left_out("not_believed", f"believed at {note.credibility:.2f}, shown from {BELIEVED} on")


def _turns(memory: ProblemMemory) -> list[Note]:
    """Attempts at the problems that ask the like, as turns."""
    notes = []
    for similarity, question, item in memory.related:
        why = f"passed attempt at {item.scope}, which asks the like, as a turn of the chat"
        if text := without_thinking(item.text):
            notes.append(replace(_note(item, text, Belief(1.0, ""), why, similarity), question=question))
    return notes


def _gives_away(problem: Problem, snapshot: Snapshot, passed: Sequence[str], leak_guard: bool, turn: Note) -> Objection:
    """What speaks against a turn."""
    if snapshot.bans.forbids_solution(turn.item.scope, turn.text) or snapshot.bans.forbids(turn.item, turn.text):
        return BANNED
    if not leak_guard:
        return None
    if problem.verifier.get("kind") == "choice":
        said = excerpt(turn.text, len(turn.text))  # without the letter at its end
    elif snapshot.problems[problem.id].common_answer:
        said = ""
    else:
        said = turn.text
    return _leaks(leak(said, problem, passed) if said else None)


def _strategies(problem_id: str, memory: ProblemMemory, beliefs: Beliefs) -> list[Note]:
    """The strategies that speak about a problem."""
    notes = []
    for item in memory.strategies:
        own = item.scope == problem_id
        why = "strategy of this problem" if own else f"strategy of {item.scope}, which speaks about this problem too"
        notes.append(_note(item, item.text, beliefs.claim(item, item.text, item.scope, problem_id), why))
    return notes


def _foreign(problem_id: str, memory: ProblemMemory, beliefs: Beliefs) -> list[Note]:
    """The believed strategies of problems that ask the like, each said once."""
    said = {fingerprint(item.text) for item in memory.strategies}
    notes = []
    for score, item in memory.alike:
        if (what := fingerprint(item.text)) not in said:
            said.add(what)
            why = f"strategy of {item.scope}, which asks the like"
            notes.append(_note(item, item.text, beliefs.claim(item, item.text, problem_id, problem_id), why, score))
    return [note for note in notes if note.credibility >= BELIEVED]


def _note(item: Item, text: str, belief: Belief, reason: str, score: float = 1.0) -> Note:
    """A note as it is believed. What a person pinned or wrote is believed whatever the evidence."""
    stands_behind = ""
    if item.protected:
        stands_behind = "pinned by a person; " if item.pinned else "a person's wording; "
    credibility = 1.0 if item.protected else belief.credibility
    reason = "; ".join(part for part in (reason, belief.evidence) if part)
    return Note(item, text, credibility, score, f"{stands_behind}{reason}", belief.tested)


def _failure(item: Item, seen: Attempt) -> Note:
    return Note(item, seen.text, 1.0, 1.0, "failed attempt of an earlier step")


def _behaviors(
    problem: Problem,
    memory: ProblemMemory,
    snapshot: Snapshot,
    settings: ContextSettings,
) -> tuple[list[Note], list[Note]]:
    """The behaviors found for a problem, and those beyond `k`."""
    mentioned = terms(problem.question())
    likeness = () if memory.likeness is None else memory.likeness
    found = [
        Found(float(similarity), behavior.item)
        for similarity, behavior in zip(likeness, snapshot.behaviors, strict=True)
        if problem.id in behavior.item.facts.get("problems", ())  # a person made it of this problem's insights
        or (behavior.topic and behavior.topic <= mentioned)
        or (not behavior.topic and memory.searched is None and similarity >= settings.min_similarity)
    ]
    found.sort(key=lambda one: (not one.item.protected, -one.similarity, one.item.text))
    first = found[: settings.k]
    by_topic = {one.item.id for one in first}
    first += [one for one in memory.searched or () if one.item.id not in by_topic]
    taken = {one.item.id for one in first}
    why = f"{settings.k} behaviors (retrieval.k) come before it"
    beyond = [one for one in found if one.item.id not in taken]
    shown, more = (
        [
            _note(one.item, one.item.text, snapshot.beliefs.rule(one.item, problem.id), "", one.similarity)
            for one in some
        ]
        for some in (first, [*beyond[:BEYOND], *(one for one in beyond[BEYOND:] if one.item.protected)])
    )
    return shown, [note.left_out("beyond_k", why) for note in more]


Conflict = Callable[[Note, Note], Contradiction | None]
"""See `Beliefs.contradict`."""


def _never(a: Note, b: Note) -> Contradiction | None:  # noqa: ARG001 -- a `Conflict`
    return None


def _nothing(note: Note) -> Objection:  # noqa: ARG001 -- an objection
    return None


def _displaced(notes: Sequence[Note], conflict: Conflict, insisted: Sequence[Note]) -> tuple[list[Note], list[Note]]:
    """The notes that no lesson of people warns of, and those that one does, each with the reason."""
    kept: list[Note] = []
    left_out: list[Note] = []
    for note in notes:
        found = None if note.item.protected else _against(note, insisted, conflict)
        if found is None:
            kept.append(note)
        else:
            left_out.append(note.left_out("contradicted", f"{found[0].item.id}, a lesson of people, warns of it"))
    return kept, left_out


def _against(note: Note, others: Iterable[Note], conflict: Conflict) -> tuple[Note, Contradiction] | None:
    """The first of `others` that contradicts a note."""
    return next(((one, found) for one in others if (found := conflict(note, one))), None)


def _consistent(
    notes: Sequence[Note],
    conflict: Conflict,
    objection: Callable[[Note], Objection],
    beside: Sequence[Note] = (),
) -> tuple[list[Note], list[Note]]:
    """Of `notes`, best first, those that may be shown together and `beside` others, and those that may not, each with
    the reason."""
    kept: list[Note] = []
    left_out: list[Note] = []
    for note in notes:
        found = _against(note, (*beside, *kept), conflict)
        # Whether a note is safe is asked last, as that takes longest.
        against = objection(note) if found is None else None
        if found is not None:
            better, contradiction = found
            why = f"contradicts {better.item.id}, which is more credible"
            left_out.append(note.left_out("contradicted", f"{why}; {contradiction.by}" if contradiction.by else why))
        elif against is not None:
            left_out.append(note.left_out(*against))
        else:
            kept.append(note)
    return kept, left_out


def _newest(attempts: Sequence[tuple[Item, Attempt]]) -> Sequence[tuple[Item, Attempt]]:
    """The attempt to show: the newest that a person pinned, else the newest."""
    return [pair for pair in attempts if pair[0].protected][-1:] or attempts[-1:]


def counts(selections: Mapping[str, Selection]) -> dict[str, int]:
    """How many selections show each level."""
    levels: tuple[Level, ...] = ("experience", "insight", "behavior")
    return {level: sum(any(n.item.level == level for n in s.notes) for s in selections.values()) for level in levels}
