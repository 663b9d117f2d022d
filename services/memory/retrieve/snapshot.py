"""What a step's retrieval knows of a bank: read once, then a value.

Invariants:
- All that is selected and shown comes from one `Snapshot`: its items are one moment of the ledger (the bank as the
  step sees it), and nothing is read after it.
- What is read follows from the problems and the settings alone, so that the same bank, problems and settings give the
  same snapshot.
- An index only proposes: what it finds is shown as the ledger has it, or not at all.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from pmd.services.common.options import ContextSettings
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.bank import attempt, by_scope, lessons, strategies
from pmd.services.memory.evidence.bank import problems as known_problems
from pmd.services.memory.evidence.credibility import Attempt, Tally, record
from pmd.services.memory.evidence.reach import Reach
from pmd.services.memory.evidence.terms import excerpt, terms, union
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.index.index import CANDIDATES, head
from pmd.services.memory.index.search import Search
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.ledger import Banned, Item, Ledger, StepView, fingerprint

SCORE_DIGITS = 4


class Related(NamedTuple):
    """A passed attempt at a problem that asks the like."""

    similarity: float
    """Cosine of the two questions."""
    question: str
    item: Item


class Found(NamedTuple):
    """An item and its cosine similarity to a problem."""

    similarity: float
    item: Item


@dataclass(frozen=True)
class Behavior:
    """A behavior that may be shown."""

    item: Item
    topic: frozenset[str]
    """Terms that make a problem its business; empty: found by similarity."""


@dataclass(frozen=True)
class ProblemMemory:
    """What a bank holds for one problem. Items are oldest first but where something else is said."""

    experience: Sequence[Item] = ()
    """Its attempts, whether or not the settings show them."""
    strategies: Sequence[Item] = ()
    """Strategies that speak about it, its own first, each thought once."""
    lessons: Sequence[Item] = ()
    alike: Sequence[Found] = ()
    """Strategies of problems that ask the like, as the index finds them, best first."""
    searched: Sequence[Found] | None = None
    """Behaviors that the index finds, best first; None: it was not asked for them."""
    likeness: Rows | None = None
    """Cosine similarity to each of the snapshot's behaviors, float32 [behaviors]; None without behaviors."""
    related: Sequence[Related] = ()
    """Passed attempts of earlier steps at other problems, the newest of each, nearest problem first."""
    common_answer: bool = False
    """Two other problems or more have its answer: a word of the task, which gives nothing away."""


@dataclass(frozen=True)
class Evidence:
    """The attempts that notes are measured by."""

    reach: Reach
    attempts: Mapping[str, Sequence[Attempt]]
    """By problem, oldest first: of the asked problems, and of all that a note which may be claimed speaks about."""
    base_pass_rate: float
    """How often attempts pass that no memory has taught, in [0, 1): notes are credited with what goes beyond."""
    behavior_pass_rate: float
    """How often attempts that follow any of the behaviors pass."""
    vocabulary: frozenset[str]
    """Terms that the bank's strategies use: what a behavior can be compared by."""

    def of(self, note: str, home: str) -> Tally:
        """How the attempts that follow a note of the problem `home` fared, at all problems that it speaks about."""
        return record(note, [a for pid in self.reach.kin(note, home) for a in self.attempts.get(pid, ())])


@dataclass(frozen=True)
class Bans:
    """Texts that people never want to see again."""

    notes: Banned
    attempts: Mapping[str, Banned]
    """By problem: what was wrong about one (`<answer>B</answer>`) is right about another."""
    everything: Banned

    def forbids(self, item: Item, text: str) -> bool:
        """Whether `text`, which shows `item`, is banned or repeats what is; a person may quote what they warn of."""
        return text in self.everything or (not item.edited and self.everything.says(text))

    def forbids_solution(self, problem_id: str, solution: str) -> bool:
        """Whether a solution says what a person has banned: a note, or an attempt at the same problem."""
        attempts = self.attempts.get(problem_id)
        return self.notes.says(solution) or (attempts is not None and attempts.says(solution))


@dataclass(frozen=True)
class Snapshot:
    """A bank, as far as notes for some problems in one step depend on it."""

    step: int
    seq: int
    """Of the bank when it was read."""
    problems: Mapping[str, ProblemMemory]
    """By id, each problem that was asked for."""
    behaviors: Sequence[Behavior]
    evidence: Evidence
    bans: Bans
    index: str | None = None
    """The index that was searched by meaning; None when the settings ask for no such search."""
    degraded: bool = False
    """The configured index was out of reach, and the embedded one answered in its place."""


def read(
    ledger: Ledger,
    search: Search,
    bank: str,
    problems: Sequence[Problem],
    step: int,
    settings: ContextSettings,
    *,
    base_pass_rate: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Read all that notes for `problems` in `step` depend on.

    Args:
        base_pass_rate: how often attempts pass that no memory has taught, in [0, 1).
        check: called between pieces of work; may raise to stop early.

    Raises:
        EmbedderDown: when texts must be embedded and the embedder is out of reach.
        Whatever `check` raises.
    """
    asked = [p.id for p in problems]
    known_in_bank = known_problems(ledger, bank)
    questions = {pid: problem.question() for pid, problem in known_in_bank.items()}
    nearest = _nearest(search.vectors, problems, questions, settings, check) if _shows_turns(settings) else {}
    reach = Reach(questions | {p.id: p.question() for p in problems})
    with ledger.at_step(bank, step) as view:
        seq = view.seq
        bans = _bans(view.put_away, settings.excerpt_chars)
        insights = _shown(view, "insight", step, settings)
        behaviors = _shown(view, "behavior", step, settings) if settings.k else []
        # What is evidence does not depend on which levels are shown.
        standing = insights if "insight" in settings.levels else view.active("insight")
        applicable = _applicable(reach, asked, strategies(insights))
        experience = by_scope(view.active("experience", asked))
        further = _claimed(reach, applicable, experience, settings.excerpt_chars) - set(experience)
        everywhere = experience | by_scope(view.active("experience", sorted(further)))
        related = {pid: _related(view, near, questions, step, settings) for pid, near in nearest.items()}
    followed = (Tally(b.facts.get("passes", 0), b.facts.get("trials", 0)) for b in behaviors)
    known: dict[Level, Sequence[Item]] = {"insight": strategies(insights), "behavior": behaviors}
    searched = {
        level: _search(search, bank, level, problems, known[level], settings, check)
        for level in settings.by_meaning
        if settings.k and level in settings.levels
    }
    alike, found = searched.get("insight"), searched.get("behavior")
    likeness = _likeness(search.vectors, problems, behaviors, check)
    by_problem = by_scope(insights)
    common = _common(problems, known_in_bank.values()) if nearest else ()
    return Snapshot(
        step=step,
        seq=seq,
        problems={
            pid: ProblemMemory(
                experience=experience.get(pid, ()),
                strategies=applicable[pid],
                lessons=lessons(by_problem.get(pid, ())),
                alike=alike.near[pid] if alike else (),
                searched=found.near[pid] if found else None,
                likeness=likeness.get(pid),
                related=related.get(pid, ()),
                common_answer=pid in common,
            )
            for pid in asked
        },
        behaviors=[Behavior(item, terms(item.facts["topic"])) for item in behaviors],
        evidence=Evidence(
            reach=reach,
            attempts={
                pid: [attempt(item, settings.excerpt_chars) for item in items] for pid, items in everywhere.items()
            },
            base_pass_rate=base_pass_rate,
            behavior_pass_rate=sum(followed, Tally()).rate,
            vocabulary=union(terms(i.text) for i in strategies(standing)),
        ),
        bans=bans,
        index=[None, *(s.index for s in searched.values())][-1],
        degraded=any(s.degraded for s in searched.values()),
    )


def _shows_turns(settings: ContextSettings) -> bool:
    in_force = settings.render != "notes" and settings.turns > 0
    return in_force and "experience" in settings.levels and not settings.transient


def _nearest(
    vectors: Vectors,
    problems: Sequence[Problem],
    questions: Mapping[str, str],
    settings: ContextSettings,
    check: Callable[[], None],
) -> dict[str, list[tuple[float, str]]]:
    """For each problem the others of the bank by the similarity of their questions, nearest first.

    What asks the same in the same words is left out: its answer is the problem's own.
    """
    ids = sorted(questions)
    if not ids:
        return {}
    known_ND = vectors.of([head(questions[pid]) for pid in ids], check)
    asked_PD = vectors.of([head(p.question()) for p in problems], check)
    near = {}
    for problem, likeness_N in zip(problems, asked_PD @ known_ND.T, strict=True):
        asks = fingerprint(problem.question())
        near[problem.id] = sorted(
            (
                (round(float(likeness), SCORE_DIGITS), pid)
                for likeness, pid in zip(likeness_N, ids, strict=True)
                if pid != problem.id and likeness >= settings.min_similarity and fingerprint(questions[pid]) != asks
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )
    return near


def _related(
    view: StepView,
    near: Sequence[tuple[float, str]],
    questions: Mapping[str, str],
    step: int,
    settings: ContextSettings,
) -> list[Related]:
    """The newest passed attempt at each of the nearest problems, twice as many as are shown: some may not be.

    Read in growing portions: where most problems were solved the first is enough.
    """
    found: list[Related] = []
    start, size = 0, 4 * settings.turns
    while start < len(near) and len(found) < 2 * settings.turns:
        part = near[start : start + size]
        attempts = by_scope(view.active("experience", [pid for _, pid in part]))
        for similarity, pid in part:
            passed = [i for i in attempts.get(pid, ()) if i.facts["passed"] and i.step < step]
            if newest := ([i for i in passed if i.held][-1:] or passed[-1:]):
                found.append(Related(similarity, questions[pid], newest[0]))
        start, size = start + size, 4 * size
    return found[: 2 * settings.turns]


def _common(problems: Sequence[Problem], known: Iterable[Problem]) -> set[str]:
    """The problems whose answer at least two others of the bank have, whatever they ask."""

    def answer(problem: Problem) -> str:
        spec = problem.verifier
        return json.dumps([spec.get("kind"), spec.get("answer", spec.get("reference"))], sort_keys=True, default=str)

    sharing: dict[str, set[str]] = defaultdict(set)
    for problem in known:
        if problem.verifier.get("answer", problem.verifier.get("reference")) is not None:
            sharing[answer(problem)].add(problem.id)
    return {p.id for p in problems if len(sharing.get(answer(p), set()) - {p.id}) >= 2}


def _shown(view: StepView, level: Level, step: int, settings: ContextSettings) -> list[Item]:
    """The items of a level that may be shown, oldest first."""
    if level not in settings.levels:
        return []
    return [i for i in view.active(level) if i.step == step or not settings.transient]


def _bans(put_away: Sequence[Item], excerpt_chars: int) -> Bans:
    """What people have banned; an attempt as it was, and as it is shown."""
    notes = [item.text for item in put_away if item.level != "experience"]
    attempts: dict[str, list[str]] = defaultdict(list)
    for item in put_away:
        if item.level == "experience":
            attempts[item.scope] += [item.text, excerpt(item.text, excerpt_chars)]
    return Bans(
        notes=Banned(notes),
        attempts={pid: Banned(texts) for pid, texts in attempts.items()},
        everything=Banned([*notes, *chain.from_iterable(attempts.values())]),
    )


def _applicable(reach: Reach, asked: Sequence[str], notes: Sequence[Item]) -> dict[str, list[Item]]:
    """The strategies that speak about each problem, its own first, each thought once."""
    applicable: dict[str, list[Item]] = {pid: [] for pid in asked}
    for item in notes:
        for pid in reach.kin(item.text, item.scope):
            if pid in applicable:
                applicable[pid].append(item)
    for pid, items in applicable.items():
        own, foreign = [i for i in items if i.scope == pid], [i for i in items if i.scope != pid]
        thoughts: dict[frozenset[str], Item] = {}
        for item in (*own, *foreign):
            thoughts.setdefault(terms(item.text), item)
        applicable[pid] = list(thoughts.values())
    return applicable


def _claimed(
    reach: Reach,
    applicable: Mapping[str, Sequence[Item]],
    experience: Mapping[str, Sequence[Item]],
    excerpt_chars: int,
) -> set[str]:
    """The problems that anything which may be claimed here speaks about: strategies, and attempts that passed."""
    passed = {pid: [i for i in items if i.facts["passed"]] for pid, items in experience.items()}
    claims = [(attempt(items[-1], excerpt_chars).text, pid) for pid, items in passed.items() if items]
    claims += [(i.text, i.scope) for items in applicable.values() for i in items]
    return {pid for text, home in claims for pid in reach.kin(text, home)}


@dataclass(frozen=True)
class _Searched:
    """What the index found of one level."""

    near: Mapping[str, Sequence[Found]]
    """For each problem the items of others, best first."""
    index: str
    degraded: bool


def _search(
    search: Search,
    bank: str,
    level: Level,
    problems: Sequence[Problem],
    known: Sequence[Item],
    settings: ContextSettings,
    check: Callable[[], None],
) -> _Searched:
    """Search a level for each problem.

    `known` are the items that may be shown, as the ledger has them: what else the index still holds is passed over.
    """
    may_be_shown = {item.id: item for item in known}
    answer = search.find(
        bank,
        level,
        [p.question() for p in problems],
        alpha=settings.vector_weight,
        limit=CANDIDATES,
        compare=True,
        check=check,
    )
    near = {}
    for problem, hits in zip(problems, answer.hits, strict=True):
        there = [(h, may_be_shown[h.id]) for h in hits if h.id in may_be_shown]
        alike = [
            (h, i)
            for h, i in there
            if i.scope != problem.id and h.cosine is not None and h.cosine >= settings.min_similarity
        ]
        # Indexes order equals as they like, and agree on scores up to rounding.
        alike.sort(key=lambda pair: (-round(pair[0].score, SCORE_DIGITS), pair[1].scope, pair[1].text))
        near[problem.id] = [Found(h.cosine or 0.0, i) for h, i in alike[: settings.k]]
    return _Searched(near, answer.index, answer.degraded)


def _likeness(
    vectors: Vectors, problems: Sequence[Problem], behaviors: Sequence[Item], check: Callable[[], None]
) -> dict[str, Rows]:
    """For each problem its cosine similarity to each behavior; empty without behaviors."""
    if not behaviors:
        return {}
    rules_ND = vectors.of([b.text for b in behaviors], check)
    questions_PD = vectors.of([head(p.question()) for p in problems], check)
    return {p.id: rules_ND @ question_D for p, question_D in zip(problems, questions_PD, strict=True)}
