"""`reflect`: the attempts of a problem, and what was known of it, become its new insight.

The model writes; the rules here only decide what is kept, at a fixed budget:
- a strategy needs a passed attempt that bears it out, a lesson a failed one;
- what stood before stands for election again, so a slip of the model loses nothing that attempts bear out;
- what people hold keeps its place, what they banned is not written again;
- a note that gives the answer away is quarantined;
- an answer that can't be read, twice, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from services.common.jobs import JobContext
from services.common.requests import MemoryCounts, ReflectRequest
from services.common.wire import Problem
from services.memory.bank import attempt, by_scope, lessons, problems, strategies
from services.memory.evidence import BELIEVED, STRATEGY_PRIOR, Attempt, borne_out, credibility, record
from services.memory.generator import ChatModel
from services.memory.holds import make_room
from services.memory.leak import leak
from services.memory.ledger import Item, Kind, Ledger, Transaction
from services.memory.notes import Insight, parse_insight
from services.memory.prompts import render
from services.memory.quality import without_duplicates

Mode = Literal["contrast", "successes", "failures"]


def mode_of(successes: Sequence[Attempt], failures: Sequence[Attempt]) -> Mode:
    """Which reflection the evidence allows: contrast when both kinds of attempts exist (method.md 1.1)."""
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


def judge(
    problem: Problem, insight: Insight, old: Sequence[Item], experience: Sequence[Item], request: ReflectRequest
) -> list[Item]:
    """The notes that a problem keeps: what was just written and what stood before, elected by today's evidence.

    A model that forgets to repeat a strategy has not refuted it. Strategies are ranked by credibility, newer ones
    first among equals; lessons by age, newer ones first. New notes that leak are kept aside, quarantined.
    """
    attempts = [attempt(item, request.settings.excerpt_chars) for item in experience]
    passed = [item.text for item in experience if item.facts["passed"]]
    written: list[tuple[Kind, str]] = [("strategy", s) for s in insight.strategies]
    written += [("lesson", s) for s in insight.lessons]
    standing = [(item.kind, item.text) for item in reversed(old)]
    elected: dict[Kind, list[tuple[float, Item]]] = {"strategy": [], "lesson": []}
    leaking = []
    for kind, text in dict.fromkeys([*written, *standing]):
        succeeds = kind == "strategy"
        seen = record(text, attempts)
        sources = [a.rollout_id for a in attempts if a.passed == succeeds][-request.settings.attempts_per_outcome :]
        item = Item(
            level="insight",
            kind=kind,
            scope=problem.id,
            text=text,
            step=request.step,
            policy_version=request.policy_version,
            facts={"sources": sources, "passes": seen.passes, "trials": seen.trials},
        )
        if request.quality.leak_guard and (reason := leak(text, problem, passed)):
            leaking.append(replace(item, status="quarantined", facts=item.facts | {"leak": reason}))
        elif borne_out(text, attempts, passed=succeeds):
            belief = credibility(STRATEGY_PRIOR, seen) if succeeds else 1.0
            if belief >= BELIEVED:
                elected[kind].append((belief, item))
    budget = request.settings.max_notes
    ranked = (sorted(candidates, key=lambda pair: -pair[0])[:budget] for candidates in elected.values())
    return [item for candidates in ranked for _, item in candidates] + leaking


def _once(insight: Insight, standing: Sequence[Item], near: float | None) -> Insight:
    return Insight(
        without_duplicates(insight.strategies, [i.text for i in strategies(standing)], near),
        without_duplicates(insight.lessons, [i.text for i in lessons(standing)], near),
    )


def reflect(ledger: Ledger, model: ChatModel, request: ReflectRequest, job: JobContext) -> MemoryCounts:
    """Refresh the insight of each problem that has attempts."""
    known = problems(ledger, request.bank)
    experience = by_scope(ledger.active(request.bank, "experience", request.problem_ids))
    old = by_scope(ledger.active(request.bank, "insight", request.problem_ids))
    asked = [pid for pid in request.problem_ids if experience.get(pid)]
    chars = request.settings.excerpt_chars
    prompts = [
        prompt(known[pid], [attempt(i, chars) for i in experience[pid]], old.get(pid, []), request) for pid in asked
    ]
    answers = model.notes(prompts, job.key, partial(parse_insight, budget=request.settings.max_notes))
    job.check()
    with ledger.at_step(request.bank, request.step) as view:
        banned = view.banned
    new: list[Item] = []
    wishes: list[tuple[Item, Item]] = []
    dropped: list[Item] = []
    for pid, insight in zip(asked, answers, strict=True):
        if insight is None:
            continue
        standing = old.get(pid, [])
        written = insight.without(banned)
        if request.quality.duplicates:
            written = _once(written, standing, request.quality.near_duplicates)
        elected = judge(known[pid], written, standing, experience[pid], request)
        items, unmet = make_room(elected, standing, request.settings.max_notes)
        wishes += unmet
        kept = {(item.kind, item.text) for item in items}
        new += items
        confirmed = {(item.kind, item.text) for item in elected}
        dropped += [i for i in standing if (i.kind, i.text) not in (confirmed if i.held else kept)]

    def change(tx: Transaction) -> None:
        tx.set_status(dropped, "retired", request.step, request.generator.model)
        tx.write(new, request.generator.model)
        for held, note in wishes:
            tx.propose(held, "replace", request.generator.model, request.step, text=note.text, facts=note.facts)

    return ledger.apply(request.bank, job.key, change)
