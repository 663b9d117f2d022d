"""What a step's retrieval knows of a bank: read once, then a value.

Invariants:
- All that is selected and shown comes from one `Snapshot`: its items are one moment of the ledger (the bank as the
  step sees it), and nothing is read after it.
- What is read follows from the problems and the settings alone, so that the same bank, problems and settings give the
  same snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from pmd.services.common.options import ContextSettings, EvidenceKind
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.applicability import Applicability
from pmd.services.memory.evidence.bank import attempt, by_scope, lessons, strategies
from pmd.services.memory.evidence.bank import problems as known_problems
from pmd.services.memory.evidence.beliefs import BELIEVED, Beliefs
from pmd.services.memory.evidence.by_effect import ByEffect
from pmd.services.memory.evidence.by_terms import ByTerms
from pmd.services.memory.evidence.credibility import Attempt, Tally
from pmd.services.memory.evidence.effect import effect_at, gather
from pmd.services.memory.evidence.terms import excerpt, terms, union
from pmd.services.memory.index.embed import HashEmbedder, Rows
from pmd.services.memory.index.index import head
from pmd.services.memory.index.questions import Near
from pmd.services.memory.index.search import Search
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.ledger import Banned, Item, Ledger, StepView
from pmd.services.memory.ledger.clusters import clusters_of
from pmd.services.memory.retrieve.near import Found, Searched, ask_index, near_by
from pmd.services.memory.retrieve.showable import Showable

LEVELS: tuple[Level, ...] = ("insight", "behavior")
"""Those that an index is searched for."""


class Related(NamedTuple):
    """A passed attempt at a problem that asks the like."""

    similarity: float
    """Cosine of the two questions."""
    question: str
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
    attempts: Sequence[Attempt] = ()
    """The same as they are read: the approach that each took."""
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
    beliefs: Beliefs
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
    evidence: EvidenceKind = "effect",
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
    nearest: Mapping[str, Near] = {}
    if _shows_turns(settings):
        nearest = search.questions.near(bank, problems, settings.min_similarity, check)
    found: dict[Level, Searched] = {}
    for level in LEVELS:
        if _is_searched(level, settings, evidence):
            seek = level == "insight" and evidence == "effect"
            looking = _without_notes(ledger, bank, problems, step, settings) if seek else problems
            found |= {level: ask_index(search, bank, level, looking, settings, check)} if looking else {}
    known = known_problems(ledger, bank) if evidence == "terms" else {}
    mentioned = {pid: problem.question() for pid, problem in known.items()}
    clusters: Mapping[str, str] = {}
    if evidence == "effect" and "behavior" in found:
        with ledger.read() as db:
            clusters = clusters_of(db, bank, asked)
    with ledger.at_step(bank, step) as view:
        showable = Showable(view, asked, step, settings)
        if evidence == "terms" or settings.transient:
            showable.take(view.active("behavior"))
        else:
            alone = found.get("behavior") if "behavior" not in settings.by_meaning else None
            showable.take(_at_hand(view, problems, alone, clusters))
        near: dict[Level, dict[str, Sequence[Found]]] = {
            level: near_by(one, showable, level, clusters)
            for level, one in found.items()
            if level in settings.by_meaning
        }
        related = {pid: _related(view, at, step, settings) for pid, at in nearest.items()}
        if evidence == "terms":
            notes = _by_terms(
                showable, Applicability(mentioned | {p.id: p.question() for p in problems}), base_pass_rate
            )
        else:
            notes = _by_effect(showable, near, search.vectors, check)
    likeness = _likeness(search.vectors, problems, showable.behaviors, check)
    turns = _with_questions(ledger, bank, related)
    return Snapshot(
        step=step,
        seq=view.seq,
        problems={
            pid: ProblemMemory(
                experience=showable.experience.get(pid, ()),
                attempts=notes.attempts.get(pid, ()),
                strategies=notes.strategies.get(pid, ()),
                lessons=notes.lessons.get(pid, ()),
                alike=near.get("insight", {}).get(pid, ()),
                searched=near["behavior"][pid] if "behavior" in near else None,
                likeness=likeness.get(pid),
                related=turns.get(pid, ()),
                common_answer=pid in nearest and nearest[pid].common_answer,
            )
            for pid in asked
        },
        behaviors=[Behavior(item, terms(item.facts["topic"])) for item in showable.behaviors],
        beliefs=notes.beliefs,
        bans=_bans(view.put_away, settings.excerpt_chars),
        index=[None, *(one.index for one in found.values())][-1],
        degraded=any(one.degraded for one in found.values()),
    )


@dataclass(frozen=True)
class _Notes:
    """Insights, by problem, and what they are believed by."""

    strategies: Mapping[str, Sequence[Item]]
    lessons: Mapping[str, Sequence[Item]]
    attempts: Mapping[str, Sequence[Attempt]]
    beliefs: Beliefs


def _by_terms(showable: Showable, applicability: Applicability, base_pass_rate: float) -> _Notes:
    """A note serves every problem that it speaks about, so all notes and problems of the bank are read."""
    standing = showable.view.active("insight")
    insights = showable.shown("insight", standing)
    chars = showable.settings.excerpt_chars
    applicable = _applicable(applicability, showable.asked, strategies(insights))
    further = _claimed(applicability, applicable, showable.experience, chars) - set(showable.experience)
    attempts = showable.attempts(showable.experience | by_scope(showable.view.active("experience", sorted(further))))
    followed = (Tally(b.facts.get("passes", 0), b.facts.get("trials", 0)) for b in showable.behaviors)
    beliefs = ByTerms(
        applicability=applicability,
        attempts=attempts,
        attempted={pid: union(a.terms for a in attempts.get(pid, ())) for pid in showable.asked},
        base_pass_rate=base_pass_rate,
        behavior_pass_rate=sum(followed, Tally()).rate,
        # What is evidence does not depend on which levels are shown.
        vocabulary=union(
            terms(i.text) for i in strategies(insights if "insight" in showable.settings.levels else standing)
        ),
    )
    return _Notes(applicable, by_scope(lessons(insights)), attempts, beliefs)


def _by_effect(
    showable: Showable, near: Mapping[Level, Mapping[str, Sequence[Found]]], vectors: Vectors, check: Callable[[], None]
) -> _Notes:
    """A note belongs to its problem, and others get it from the index alone: only what they need is read."""
    insights = showable.shown("insight", showable.view.active("insight", showable.asked))
    written = [
        *insights,
        *showable.behaviors,
        *(f.item for at in near.values() for found in at.values() for f in found),
    ]
    attempts = [item for items in showable.experience.values() for item in items]
    texts = list(dict.fromkeys(item.text for item in written))
    return _Notes(
        by_scope(strategies(insights)),
        by_scope(lessons(insights)),
        showable.attempts(showable.experience),
        ByEffect(
            gather(showable.view.trials([item.id for item in (*written, *attempts)])),
            meaning=dict(zip(texts, vectors.of(texts, check), strict=True)),
            spelling=dict(zip(texts, HashEmbedder().embed(texts), strict=True)),
            judged=showable.view.judgements(texts),
        ),
    )


def _is_searched(level: Level, settings: ContextSettings, evidence: EvidenceKind) -> bool:
    """Whether the index is asked for a level: where the settings say so, and by effect for all behaviors."""
    if level not in settings.levels or settings.render == "turns":
        return False
    if not (settings.foreign if level == "insight" else settings.k):
        return False
    return level in settings.by_meaning or (level == "behavior" and evidence == "effect" and not settings.transient)


def _without_notes(
    ledger: Ledger, bank: str, problems: Sequence[Problem], step: int, settings: ContextSettings
) -> list[Problem]:
    """The problems that no strategy of their own is believed at: only these are shown what others know."""
    ids = [p.id for p in problems]
    with ledger.at_step(bank, step) as view:
        own = Showable(view, ids, step, settings).shown("insight", view.active("insight", ids))
        outcomes = gather(view.trials([item.id for item in own]))
    believed = {
        item.scope
        for item in strategies(own)
        if item.protected or effect_at(item.scope, outcomes.get(item.id, {})).credibility >= BELIEVED
    }
    return [p for p in problems if p.id not in believed]


def _at_hand(
    view: StepView, problems: Sequence[Problem], found: Searched | None, clusters: Mapping[str, str]
) -> list[Item]:
    """The behaviors that may be the problems' business: those of people, of the problems' clusters, what is about a
    term that one mentions, and what the index was asked for alone."""
    mentioned = sorted(union(terms(p.question()) for p in problems))
    ids = [hit.id for hits in found.hits for hit in hits] if found else []
    theirs = view.active("behavior", [*mentioned, *clusters.values()])
    items = [*view.by_people("behavior"), *theirs, *view.among("behavior", ids).values()]
    return sorted({item.id: item for item in items}.values(), key=lambda i: (i.step, i.seq, i.id))


def _shows_turns(settings: ContextSettings) -> bool:
    in_force = settings.render != "notes" and settings.turns > 0
    return in_force and "experience" in settings.levels and not settings.transient


def _related(view: StepView, near: Near, step: int, settings: ContextSettings) -> list[Found]:
    """The newest passed attempt at each of the nearest problems, twice as many as are shown: some may not be.

    Read in growing portions: where most problems were solved the first is enough.
    """
    found: list[Found] = []
    start, size = 0, 4 * settings.turns
    while len(found) < 2 * settings.turns and (part := near.first(start + size)[start : start + size]):
        attempts = by_scope(view.active("experience", [pid for _, pid in part]))
        for similarity, pid in part:
            passed = [i for i in attempts.get(pid, ()) if i.facts["passed"] and i.step < step]
            if newest := ([i for i in passed if i.protected][-1:] or passed[-1:]):
                found.append(Found(similarity, newest[0]))
        start, size = start + size, 4 * size
    return found[: 2 * settings.turns]


def _with_questions(ledger: Ledger, bank: str, related: Mapping[str, Sequence[Found]]) -> dict[str, list[Related]]:
    """Attempts with what they answer."""
    scopes = sorted({found.item.scope for at in related.values() for found in at})
    questions = {pid: problem.question() for pid, problem in known_problems(ledger, bank, scopes).items()}
    return {
        pid: [Related(found.similarity, questions[found.item.scope], found.item) for found in at]
        for pid, at in related.items()
    }


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


def _applicable(applicability: Applicability, asked: Sequence[str], notes: Sequence[Item]) -> dict[str, list[Item]]:
    """The strategies that speak about each problem, its own first, each thought once."""
    applicable: dict[str, list[Item]] = {pid: [] for pid in asked}
    for item in notes:
        for pid in applicability.problems(item.text, item.scope):
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
    applicability: Applicability,
    applicable: Mapping[str, Sequence[Item]],
    experience: Mapping[str, Sequence[Item]],
    excerpt_chars: int,
) -> set[str]:
    """The problems that anything which may be claimed here speaks about: strategies, and attempts that passed."""
    passed = {pid: [i for i in items if i.facts["passed"]] for pid, items in experience.items()}
    claims = [(attempt(items[-1], excerpt_chars).text, pid) for pid, items in passed.items() if items]
    claims += [(i.text, i.scope) for items in applicable.values() for i in items]
    return {pid for text, home in claims for pid in applicability.problems(text, home)}


def _likeness(
    vectors: Vectors, problems: Sequence[Problem], behaviors: Sequence[Item], check: Callable[[], None]
) -> dict[str, Rows]:
    """For each problem its cosine similarity to each behavior; empty without behaviors."""
    if not behaviors:
        return {}
    rules_ND = vectors.of([b.text for b in behaviors], check)
    questions_PD = vectors.of([head(p.question()) for p in problems], check)
    return {p.id: rules_ND @ question_D for p, question_D in zip(problems, questions_PD, strict=True)}
