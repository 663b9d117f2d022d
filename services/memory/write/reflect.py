"""`reflect`: the attempts of a problem, and what was known of it, become its new insight.

The model writes; the rules here only decide what it is asked and what is kept, at a fixed budget:
- where attempts say only what the notes say, it is not asked;
- a strategy needs a passed attempt that bears it out, a lesson a failed one, and both the evidence's vote;
- what stood before stands for election again, and in its own words where a new note claims the same, so a slip of
  the model loses nothing that attempts bear out;
- what people hold keeps its place, what they banned is not written again;
- a note that gives the answer away is quarantined;
- an answer that can't be read, twice, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

from pmd.services.common.bank import Kind
from pmd.services.common.jobs import JobContext
from pmd.services.common.prompts import render
from pmd.services.common.requests import ReflectRequest, WriteResult
from pmd.services.common.wire import Problem
from pmd.services.memory.evidence.applicability import Applicability
from pmd.services.memory.evidence.bank import attempt, attempts_at, by_scope, lessons, problems, strategies
from pmd.services.memory.evidence.beliefs import BELIEVED
from pmd.services.memory.evidence.credibility import STRATEGY_PRIOR, Attempt, borne_out, credibility, record
from pmd.services.memory.evidence.effect import Outcomes, effect_at, gather
from pmd.services.memory.evidence.quality import without_duplicates
from pmd.services.memory.evidence.terms import AGREE, coverage, terms, union
from pmd.services.memory.leak.guard import leak
from pmd.services.memory.ledger import Item, Ledger, Transaction, reads
from pmd.services.memory.write.found import Dropped
from pmd.services.memory.write.generator import ChatModel
from pmd.services.memory.write.notes import Insight, Reading, answer_schema, parse_insight
from pmd.services.memory.write.protected import make_room
from pmd.services.memory.write.told import BANNED, LEAKS, UNPROVEN, Told

Mode = Literal["contrast", "successes", "failures"]


def mode_of(successes: Sequence[Attempt], failures: Sequence[Attempt]) -> Mode:
    """Which reflection the evidence allows: contrast when both kinds of attempts exist."""
    if successes and failures:
        return "contrast"
    return "successes" if successes else "failures"


def prompt(problem: Problem, attempts: Sequence[Attempt], old: Sequence[Item], request: ReflectRequest) -> str:
    """The reflection prompt of one problem: its newest passed and failed attempts, and its old insight.

    Attempts that read alike teach no more than one, and a failure that reads like a success says nothing of the
    approach: what is shown differs.
    """
    shown = request.settings.attempts_per_outcome
    successes = _newest([a for a in attempts if a.passed], shown)
    succeeded = {a.text for a in attempts if a.passed}
    failures = _newest([a for a in attempts if not a.passed and a.text not in succeeded], shown)
    return render(
        "reflect",
        request.prompts.reflect,
        problem=problem.question(),
        mode=mode_of(successes, failures),
        successes=[{"text": a.text} for a in successes],
        failures=[{"text": a.text, "feedback": a.feedback} for a in failures],
        strategies=[item.text for item in strategies(old)],
        lessons=[item.text for item in lessons(old)],
    )


def _newest(attempts: Sequence[Attempt], count: int) -> list[Attempt]:
    """The `count` newest attempts of different text, oldest first."""
    different: dict[str, Attempt] = {}
    for one in reversed(attempts):
        different.setdefault(one.text, one)
    return list(different.values())[:count][::-1]


def nothing_new(attempts: Sequence[Attempt], standing: Sequence[Item], step: int) -> bool:
    """Whether each attempt of `step` that passed does what a strategy says, and each that failed what a lesson says.

    A policy that has learnt a problem repeats itself, and one that learns fast forgets how to reflect before it
    forgets what to do: what it would write of such attempts is no better than what stands.
    """
    new = [a for a in attempts if a.step == step]
    vocabulary = union(a.terms for a in attempts)
    known = {True: strategies(standing), False: lessons(standing)}
    said = {passed: [terms(item.text) for item in notes] for passed, notes in known.items()}
    return bool(new) and all(any(coverage(note, vocabulary, a.terms) >= AGREE for note in said[a.passed]) for a in new)


def _claim(kind: Kind, text: str, vocabulary: frozenset[str]) -> tuple[Kind, frozenset[str] | str]:
    """What a note says that attempts can show, or its words where they can show nothing of it."""
    return kind, terms(text) & vocabulary or text


class Vote(NamedTuple):
    """What the evidence says of a note."""

    belief: float | None
    """In [0, 1]; None: no attempt bears it out."""
    facts: dict[str, Any]
    """Of the note's item."""


Voter = Callable[[Kind, str, "Item | None"], Vote]
"""Votes on a note of one problem, of a kind and text, which may stand already."""


def by_terms(attempts: Sequence[Attempt], related: Callable[[str], Sequence[Attempt]], base_pass_rate: float) -> Voter:
    """Strategies are believed as far as attempts that follow them pass, and both kinds need one that bears them out.

    Args:
        attempts: at the problem.
        related: the attempts at all problems that a strategy of this one speaks about.
    """

    def vote(kind: Kind, text: str, standing: Item | None) -> Vote:  # noqa: ARG001 -- a `Voter`
        succeeds = kind == "strategy"
        seen = record(text, related(text) if succeeds else attempts)
        facts = {"passes": seen.passes, "trials": seen.trials}
        if not borne_out(text, attempts, passed=succeeds):
            return Vote(None, facts)
        return Vote(credibility(STRATEGY_PRIOR, seen, base_pass_rate=base_pass_rate) if succeeds else 1.0, facts)

    return vote


def by_effect(attempts: Sequence[Attempt], outcomes: Mapping[str, Mapping[str, Outcomes]], problem_id: str) -> Voter:
    """Notes are believed as far as contexts that show them led to more reward than others; new ones are undecided.

    Args:
        attempts: at the problem; a strategy needs one that passed, a lesson one that failed.
        outcomes: of what stands, by item, by problem.
    """

    def vote(kind: Kind, text: str, standing: Item | None) -> Vote:  # noqa: ARG001 -- a `Voter`
        if not any(a.passed == (kind == "strategy") for a in attempts):
            return Vote(None, {})
        found = effect_at(problem_id, outcomes.get(standing.id, {}) if standing else {})
        shown = found.outcomes.shown
        return Vote(found.belief, {"passes": round(shown.rewards), "trials": round(shown.trials)})

    return vote


def elect(
    problem: Problem,
    insight: Insight,
    old: Sequence[Item],
    experience: Sequence[Item],
    vote: Voter,
    request: ReflectRequest,
) -> tuple[list[Item], list[Dropped]]:
    """The notes that a problem keeps, and those just written that it doesn't: what was written and what stood before
    is elected by today's evidence.

    A model that forgets to repeat a strategy has not refuted it. Notes of a kind are ranked by belief, newer ones
    first among equals. New notes that leak are kept aside, quarantined.
    """
    attempts = [attempt(item, request.settings.excerpt_chars) for item in experience]
    passed = [item.text for item in experience if item.facts["passed"]]
    written: list[tuple[Kind, str]] = [("strategy", s) for s in insight.strategies]
    written += [("lesson", s) for s in insight.lessons]
    standing: dict[tuple[Kind, str], Item] = {(item.kind, item.text): item for item in reversed(old)}
    vocabulary = union(a.terms for a in attempts)
    words = {_claim(kind, text, vocabulary): text for kind, text in reversed(standing)}
    candidates = [(kind, words.get(_claim(kind, text, vocabulary), text)) for kind, text in [*written, *standing]]
    elected: dict[Kind, list[tuple[float, Item]]] = {"strategy": [], "lesson": []}
    leaking = []
    fresh = set(candidates[: len(written)])
    refused: list[Dropped] = []
    for kind, text in dict.fromkeys(candidates):
        succeeds = kind == "strategy"
        sources = [a.rollout_id for a in attempts if a.passed == succeeds][-request.settings.attempts_per_outcome :]
        belief, facts = vote(kind, text, standing.get((kind, text)))
        item = Item(
            level="insight",
            kind=kind,
            scope=problem.id,
            text=text,
            step=request.step,
            policy_version=request.policy_version,
            facts={"sources": sources} | facts,
        )
        if request.quality.leak_guard and (reason := leak(text, problem, passed)):
            leaking.append(replace(item, status="quarantined", facts=item.facts | {"leak": reason}))
            refused += [Dropped(LEAKS, text)] * ((kind, text) in fresh)
        elif belief is not None and belief >= BELIEVED:
            elected[kind].append((belief, item))
        elif (kind, text) in fresh:
            refused.append(Dropped(UNPROVEN, text))
    budget = request.settings.max_notes
    ranked = (sorted(notes, key=lambda pair: -pair[0])[:budget] for notes in elected.values())
    return [item for notes in ranked for _, item in notes] + leaking, refused


def _once(insight: Insight, standing: Sequence[Item], near: float | None) -> Insight:
    return Insight(
        without_duplicates(insight.strategies, [i.text for i in strategies(standing)], near),
        without_duplicates(insight.lessons, [i.text for i in lessons(standing)], near),
    )


def _texts(insight: Insight) -> list[str]:
    return [*insight.strategies, *insight.lessons]


def reflect(ledger: Ledger, model: ChatModel, request: ReflectRequest, job: JobContext) -> WriteResult:
    """Refresh the insight of each asked problem that has attempts."""
    known = problems(ledger, request.bank, None if request.evidence == "terms" else request.problem_ids)
    experience = by_scope(ledger.active(request.bank, "experience", request.problem_ids))
    old = by_scope(ledger.active(request.bank, "insight", request.problem_ids))
    chars = request.settings.excerpt_chars
    attempts = {pid: [attempt(i, chars) for i in items] for pid, items in experience.items()}
    asked = [pid for pid, seen in attempts.items() if not nothing_new(seen, old.get(pid, []), request.step)]
    prompts = [prompt(known[pid], attempts[pid], old.get(pid, []), request) for pid in asked]
    budget, how = request.settings.max_notes, request.generator.format
    schema = answer_schema("strategy", "lesson", budget=budget) if how == "json" else None
    said = model.notes(prompts, job, partial(parse_insight, budget=budget, how=how), schema)
    told = Told(said)
    answers = dict(zip(asked, said.found, strict=True))
    job.check()
    with ledger.at_step(request.bank, request.step) as view:
        banned = view.banned
    written: dict[str, Insight] = {}
    for pid in experience:
        reading = answers.get(pid, Reading(Insight()))
        if reading is not None:
            allowed = reading.notes.without(banned)
            once = _once(allowed, old.get(pid, []), request.quality.near_duplicates)
            told.drop(*reading.dropped)
            told.drop(*(Dropped(BANNED, t) for t in _texts(reading.notes) if t not in _texts(allowed)))
            written[pid] = once if request.quality.duplicates else allowed
    voter = _voters(ledger, request, known, attempts, old, written)
    new: list[Item] = []
    proposals: list[tuple[Item, Item]] = []
    dropped: list[Item] = []
    for pid, insight in written.items():
        standing = old.get(pid, [])
        elected, refused = elect(known[pid], insight, standing, experience[pid], voter(pid), request)
        told.drop(*refused)
        items, unmet = make_room(elected, standing, request.settings.max_notes)
        proposals += unmet
        kept = {(item.kind, item.text) for item in items}
        new += items
        confirmed = {(item.kind, item.text) for item in elected}
        dropped += [i for i in standing if (i.kind, i.text) not in (confirmed if i.protected else kept)]

    def change(tx: Transaction) -> None:
        tx.set_status(dropped, "retired", request.step, request.generator.model)
        tx.write(new, request.generator.model)
        for protected, note in proposals:
            tx.propose(protected, "replace", request.generator.model, request.step, text=note.text, facts=note.facts)

    return told.result(ledger.apply(request.bank, job.key, change))


def _voters(
    ledger: Ledger,
    request: ReflectRequest,
    known: Mapping[str, Problem],
    attempts: Mapping[str, Sequence[Attempt]],
    old: Mapping[str, Sequence[Item]],
    written: Mapping[str, Insight],
) -> Callable[[str], Voter]:
    """Who votes on the notes of each problem."""
    if request.evidence == "effect":
        with ledger.read() as db:
            outcomes = gather(reads.trials(db, request.bank, [item.id for pid in written for item in old.get(pid, ())]))
        return lambda pid: by_effect(attempts[pid], outcomes, pid)
    applicability = Applicability({pid: problem.question() for pid, problem in known.items()})
    notes = [(text, pid) for pid, insight in written.items() for text in insight.strategies]
    notes += [(item.text, pid) for pid in written for item in strategies(old.get(pid, []))]
    others = {other for text, pid in notes for other in applicability.problems(text, pid)} - set(attempts)
    everywhere = {**attempts, **attempts_at(ledger, request.bank, sorted(others), request.settings.excerpt_chars)}

    def related(note: str, home: str) -> list[Attempt]:
        return [a for pid in applicability.problems(note, home) for a in everywhere.get(pid, ())]

    return lambda pid: by_terms(attempts[pid], partial(related, home=pid), request.base_pass_rate)
