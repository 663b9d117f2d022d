"""Which notes a teacher gets to see for one problem: found, believed, and free of contradiction.

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

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

from pmd.services.common.options import ContextSettings
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.bank import attempt, by_scope, lessons, strategies
from pmd.services.memory.evidence.bank import problems as known_problems
from pmd.services.memory.evidence.credibility import (
    BELIEVED,
    STRATEGY_PRIOR,
    Attempt,
    Record,
    approaches,
    behavior_prior,
    contradicts,
    credibility,
    record,
)
from pmd.services.memory.evidence.reach import Reach
from pmd.services.memory.evidence.terms import AGREE, coverage, excerpt, terms, union
from pmd.services.memory.index.index import CANDIDATES, head
from pmd.services.memory.index.search import Search
from pmd.services.memory.leak.guard import leak
from pmd.services.memory.ledger import Banned, Item, Ledger

SCORE_DIGITS = 4


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


class Retriever:
    """Reads a bank once and selects notes for many problems of one step."""

    def __init__(
        self,
        ledger: Ledger,
        search: Search,
        bank: str,
        problems: Sequence[Problem],
        step: int,
        settings: ContextSettings,
        chance: float = 0.0,
        leak_guard: bool = True,
        check: Callable[[], None] = lambda: None,
    ):
        self._settings = settings
        self._chance = chance
        self._leak_guard = leak_guard
        self._step = step
        self.index: str | None = None
        self.degraded = False
        questions = {pid: problem.question() for pid, problem in known_problems(ledger, bank).items()}
        self._reach = Reach(questions | {p.id: p.question() for p in problems})
        with ledger.at_step(bank, step) as view:
            self.seq = view.seq
            notes = [i.text for i in view.put_away if i.level != "experience"]
            attempts: dict[str, list[str]] = defaultdict(list)
            for item in view.put_away:
                if item.level == "experience":
                    attempts[item.scope] += [item.text, excerpt(item.text, settings.excerpt_chars)]
            self._banned_notes = Banned(notes)
            self._banned_attempts = {pid: Banned(texts) for pid, texts in attempts.items()}
            self._banned = Banned([*notes, *chain.from_iterable(attempts.values())])

            def load(level: Level, scopes: Sequence[str] | None) -> list[Item]:
                found = view.active(level, scopes) if level in settings.levels else []
                return [i for i in found if i.step == step] if settings.transient else found

            insights = load("insight", None)
            evidence = insights if "insight" in settings.levels else view.active("insight")
            self._behaviors = load("behavior", None) if settings.k else []
            self._insights = by_scope(insights)
            self._speaking = self._about([p.id for p in problems], strategies(insights))
            # Attempts are evidence at every setting; whether they are shown depends on the levels.
            self._experience = by_scope(view.active("experience", [p.id for p in problems]))
            others = view.active("experience", sorted(self._kin() - set(self._experience)))
        self._attempts = {
            pid: [attempt(item, settings.excerpt_chars) for item in items]
            for pid, items in (self._experience | by_scope(others)).items()
        }
        tried = (Record(b.facts.get("passes", 0), b.facts.get("trials", 0)) for b in self._behaviors)
        self._blame = sum(tried, Record()).rate
        self._vectors = search.vectors
        self._rows = self._vectors.of([b.text for b in self._behaviors])
        self._topics = [terms(b.facts["topic"]) for b in self._behaviors]
        self._vocabulary = union(terms(i.text) for i in strategies(evidence))
        self._near: dict[Level, dict[str, list[tuple[float, Item]]]] = {}
        for level in settings.by_meaning if settings.k else ():
            if level in settings.levels:
                known = self._behaviors if level == "behavior" else strategies(insights)
                self._near[level] = self._search(search, bank, level, problems, known, check)

    def _about(self, problem_ids: Sequence[str], notes: Sequence[Item]) -> dict[str, list[Item]]:
        """The strategies that speak about each problem, its own first, each thought once."""
        speaking: dict[str, list[Item]] = {pid: [] for pid in problem_ids}
        for item in notes:
            for pid in self._reach.kin(item.text, item.scope):
                if pid in speaking:
                    speaking[pid].append(item)
        for pid, items in speaking.items():
            own, foreign = [i for i in items if i.scope == pid], [i for i in items if i.scope != pid]
            thoughts: dict[frozenset[str], Item] = {}
            for item in (*own, *foreign):
                thoughts.setdefault(terms(item.text), item)
            speaking[pid] = list(thoughts.values())
        return speaking

    def _kin(self) -> set[str]:
        """The problems that anything which may be claimed here speaks about."""
        excerpt_chars = self._settings.excerpt_chars
        passed = {pid: [i for i in items if i.facts["passed"]] for pid, items in self._experience.items()}
        shown = [(attempt(items[-1], excerpt_chars).text, pid) for pid, items in passed.items() if items]
        claims = shown + [(i.text, i.scope) for items in self._speaking.values() for i in items]
        return {kin for text, home in claims for kin in self._reach.kin(text, home)}

    def _search(
        self,
        search: Search,
        bank: str,
        level: Level,
        problems: Sequence[Problem],
        known: Sequence[Item],
        check: Callable[[], None],
    ) -> dict[str, list[tuple[float, Item]]]:
        """For each problem the items of others that the index finds, best first, with their cosine.

        `known` are the items that may be shown, as the ledger has them: what else the index still holds is passed over.
        """
        settings = self._settings
        may_be_shown = {item.id: item for item in known}
        found = search.find(
            bank,
            level,
            [p.question() for p in problems],
            alpha=settings.vector_weight,
            limit=CANDIDATES,
            compare=True,
            check=check,
        )
        self.index, self.degraded = found.index, self.degraded or found.degraded
        seen = {h.id: may_be_shown[h.id] for hits in found.hits for h in hits if h.id in may_be_shown}
        near = {}
        for problem, hits in zip(problems, found.hits, strict=True):
            others = [(h, seen[h.id]) for h in hits if h.id in seen and seen[h.id].scope != problem.id]
            alike = [(h, i) for h, i in others if h.cosine is not None and h.cosine >= settings.min_similarity]
            # Indexes order equals as they like, and agree on scores up to rounding.
            alike.sort(key=lambda pair: (-round(pair[0].score, SCORE_DIGITS), pair[1].scope, pair[1].text))
            near[problem.id] = [(h.cosine or 0.0, i) for h, i in alike[: settings.k]]
        return near

    def may_show(self, problem_id: str, solution: str) -> bool:
        """Whether a solution says nothing that a person has banned: no note, and no attempt at the same problem.

        What was wrong about one problem (`<answer>B</answer>`) is right about another.
        """
        attempts = self._banned_attempts.get(problem_id)
        return not self._banned_notes.says(solution) and not (attempts and attempts.says(solution))

    def select(self, problem: Problem) -> Selection:
        """The notes for one problem."""
        settings = self._settings
        experience = self._experience.get(problem.id, [])
        attempts = self._attempts.get(problem.id, [])
        own = self._insights.get(problem.id, [])
        claims = [self._strategy(item, problem) for item in self._speaking[problem.id]]
        if not any(note.credibility >= BELIEVED for note in claims):
            claimed = {note.item.id for note in claims}
            for score, item in self._near.get("insight", {}).get(problem.id, []):
                if item.id not in claimed:
                    why = f"strategy of {item.scope}, which asks the like"
                    claims.append(self._claim(item, item.text, problem.id, why, score))
        past = [(i, a) for i, a in zip(experience, attempts, strict=True) if a.step < self._step]
        if "experience" in settings.levels and not settings.transient:
            for item, seen in _newest([(i, a) for i, a in past if a.passed]):
                claims.append(self._claim(item, seen.text, problem.id, "passed attempt of an earlier step"))
        passed = [item.text for item in experience if item.facts["passed"]]
        safe = partial(self._safe, problem=problem, passed=passed)
        candidates = [*claims, *self._found_behaviors(problem, attempts)]
        believed = sorted((n for n in candidates if n.credibility >= BELIEVED), key=lambda n: -n.credibility)
        chosen = self._consistent(believed, union(a.terms for a in attempts), safe)
        warned = [note for item in lessons(own) if (note := self._warning(item, attempts)) is not None]
        warnings = list(filter(safe, warned))
        if "experience" in settings.levels and not settings.transient and not warnings:
            # A lesson says it already. The attempt word for word is what a model that looks things up repeats.
            failed = _newest([(i, a) for i, a in past if not a.passed])
            failures = [self._failure(item, seen) for item, seen in failed]
            chosen += filter(safe, failures)
        plans = [n for n in chosen if n.item.level == "insight" or n.item.facts.get("passed")]
        vocabulary = union(a.terms for a in attempts)
        return Selection(
            strategies=tuple(n for n in chosen if n.item.level == "insight"),
            lessons=tuple(n for n in warnings if n.item.held or not _forbids(n, plans, vocabulary)),
            behaviors=tuple(n for n in chosen if n.item.level == "behavior"),
            experiences=tuple(n for n in chosen if n.item.level == "experience"),
        ).within(settings.max_chars)

    def _safe(self, note: Note, problem: Problem, passed: Sequence[str]) -> bool:
        """Whether a note neither leaks this problem's answer nor says what a person has banned.

        Insights were guarded when they were written. People and imports write what they like, behaviors and notes of
        kin come from other problems, and attempts are shown as they are: each note is checked for each problem that
        it is shown for, before it can take the place of another.

        Args:
            passed: attempts at this problem that passed.
        """
        # What a person wrote may quote what it warns of.
        if note.text in self._banned or (not note.item.edited and self._banned.says(note.text)):
            return False
        return not self._leak_guard or leak(note.text, problem, passed) is None

    def _strategy(self, item: Item, problem: Problem) -> Note:
        own = item.scope == problem.id
        why = "strategy of this problem" if own else f"strategy of {item.scope}, which speaks about this problem too"
        return self._claim(item, item.text, item.scope, why)

    def _claim(self, item: Item, text: str, home: str, reason: str, score: float = 1.0) -> Note:
        """A note that says how to solve a problem, with its record at all problems that it speaks about."""
        seen = record(text, [a for kin in self._reach.kin(text, home) for a in self._attempts.get(kin, ())])
        return Note(
            item,
            text,
            _belief(item, credibility(STRATEGY_PRIOR, seen, chance=self._chance)),
            score,
            f"{_stands_behind(item)}{reason}; {seen.passes} of {seen.trials} attempts that follow it passed",
        )

    def _failure(self, item: Item, seen: Attempt) -> Note:
        return Note(item, seen.text, 1.0, 1.0, "failed attempt of an earlier step")

    def _warning(self, item: Item, attempts: Sequence[Attempt]) -> Note | None:
        """A lesson, unless attempts that do what it warns of mostly pass."""
        seen = record(item.text, attempts)
        if seen.trials and seen.passes / seen.trials > 0.5 and not item.held:
            return None
        reason = (
            f"{_stands_behind(item)}lesson of this problem; {seen.passes} of {seen.trials} attempts that do this passed"
        )
        return Note(item, item.text, 1.0, 1.0, reason)

    def _found_behaviors(self, problem: Problem, attempts: Sequence[Attempt]) -> list[Note]:
        if not self._behaviors:
            return []
        question = problem.question()
        mentioned = terms(question)
        similarity = self._rows @ self._vectors.of([head(question)])[0]
        searched = self._near.get("behavior")
        found = [
            (float(similarity[n]), item)
            for n, item in enumerate(self._behaviors)
            if ((topic := self._topics[n]) and topic <= mentioned)
            or (not topic and searched is None and similarity[n] >= self._settings.min_similarity)
        ]
        found.sort(key=lambda pair: (not pair[1].held, -pair[0], pair[1].text))
        del found[self._settings.k :]
        by_topic = {item.id for _, item in found}
        found += [pair for pair in (searched or {}).get(problem.id, []) if pair[1].id not in by_topic]
        notes = []
        for score, item in found:
            seen = approaches(item.text, attempts)
            prior = behavior_prior(item.facts["support"], item.facts["members"])
            reason = (
                f"{_stands_behind(item)}{item.facts['support']} of {item.facts['members']} problems agree; "
                f"{seen.passes} of {seen.trials} approaches here that follow it passed"
            )
            belief = credibility(prior, seen, chance=self._chance, blame=self._blame)
            notes.append(Note(item, item.text, _belief(item, belief), score, reason))
        return notes

    def _consistent(self, notes: Sequence[Note], attempted: frozenset[str], safe: Callable[[Note], bool]) -> list[Note]:
        """The safe ones of `notes`, best first, without those that contradict a better one."""
        kept: list[Note] = []
        show = self._settings.conflicts == "show"
        for note in notes:
            # Whether a note is safe is asked last, as that takes longest.
            if (show or not any(self._contradict(note, better, attempted) for better in kept)) and safe(note):
                kept.append(note)
        return kept

    def _contradict(self, a: Note, b: Note, attempted: frozenset[str]) -> bool:
        if "behavior" not in {a.item.level, b.item.level}:
            # Two claims about the same problem: compare what attempts can show, not the names they share.
            return contradicts(a.terms, b.terms, attempted)
        broad, narrow = (a, b) if a.item.level == "behavior" else (b, a)
        return contradicts(broad.terms, narrow.terms, self._vocabulary)


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


Selector = Callable[[Problem], Selection]


def nothing(_: Problem) -> Selection:
    """The selection of a run without memory."""
    return Selection()


def counts(selections: Mapping[str, Selection]) -> dict[str, int]:
    """How many selections show each level."""
    levels: tuple[Level, ...] = ("experience", "insight", "behavior")
    return {level: sum(any(n.item.level == level for n in s.notes) for s in selections.values()) for level in levels}
