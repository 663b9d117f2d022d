"""`retrieve`: one teacher context per rollout, rendered from memory and from the rollout's own batch.

A context is the problem with notes (memory), a verified sibling's solution or the rollout's own feedback
(in-batch, as in SDPO, arXiv 2601.20802), and the closing request, all placed by the recipe's teacher template.

Invariants (Law 3): a rollout is never its own demonstration, and a solution that says what a person has banned is
nobody's; experience shown through memory is the head of an attempt of an earlier step, never a whole program, and
passes the leak guard. Law 8: every context lists the items it shows with their versions, and the bank's `seq` it was
rendered from.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pmd.services.common.artifacts import dump_messages, read_problems, read_table, write_table
from pmd.services.common.columns import CONTEXTS
from pmd.services.common.jobs import JobContext
from pmd.services.common.prompts import render
from pmd.services.common.requests import RetrieveRequest, RetrieveResult
from pmd.services.common.wire import Message, Outcome, Problem
from pmd.services.memory.evidence.quality import held_out
from pmd.services.memory.evidence.terms import AGREE, excerpt, similarity, terms
from pmd.services.memory.index.search import Search
from pmd.services.memory.ledger import Item, Ledger, Use
from pmd.services.memory.retrieve.select import Note, Retriever, Selection, Selector, counts, nothing

_THINK = re.compile(r"<think>.*?</think>\s*", re.DOTALL)

Row = dict[str, Any]
MayShow = Callable[[str, str], bool]
"""Whether a solution (the second) of a problem (the first, its id) may be a demonstration."""


def without_thinking(text: str) -> str:
    """A demonstration as it may be shown: hidden thinking removed."""
    return _THINK.sub("", text).strip()


def anything(problem_id: str, solution: str) -> bool:  # noqa: ARG001 -- a `MayShow`
    """Without memory nothing is banned."""
    return True


def demonstration(own: Row, siblings: Sequence[Row], request: RetrieveRequest) -> Row | None:
    """The first passed sibling that may be shown to `own` in full; never `own` itself.

    With `same_plan` only a sibling that took the same approach is: a teacher that sees another approach
    worked out teaches the student to state one thing and do another (docs/method.md 4).
    """
    settings = request.settings
    if settings.demonstrations == "none":
        return None
    plan = terms(excerpt(own["text"], settings.excerpt_chars))
    for row in siblings:
        if row["rollout_id"] == own["rollout_id"]:
            continue
        same = similarity(plan, terms(excerpt(row["text"], settings.excerpt_chars))) >= AGREE
        if settings.demonstrations == "any" or same:
            return row
    return None


def shows_feedback(verdict: Row, has_solution: bool, request: RetrieveRequest) -> bool:
    """Whether the rollout's own feedback is shown: only of a failed attempt, as the settings say."""
    rule = request.settings.feedback
    failed = verdict["outcome"] not in {Outcome.PASSED, Outcome.INFRA_ERROR} and bool(verdict["feedback"])
    return failed and (rule == "always" or (rule == "without_solution" and not has_solution))


def context_messages(
    problem: Problem, selection: Selection, solution: str | None, feedback: str | None, request: RetrieveRequest
) -> list[Message]:
    """The problem's messages with the last user turn rendered by the teacher template."""
    tells = request.settings.feedback != "never"
    content = render(
        "teacher",
        request.prompts.teacher,
        problem=problem.question(),
        strategies=[n.text for n in selection.strategies],
        lessons=[n.text for n in selection.lessons],
        behaviors=[n.text for n in selection.behaviors],
        experiences=[
            {"text": n.text, "passed": n.item.facts["passed"], "feedback": n.item.facts["feedback"] if tells else ""}
            for n in selection.experiences
        ],
        solution=solution,
        feedback=feedback,
    )
    last = max(i for i, m in enumerate(problem.messages) if m.role == "user")
    return [Message(role="user", content=content) if i == last else m for i, m in enumerate(problem.messages)]


def _row(
    prompt_id: str,
    problem: Problem,
    selection: Selection,
    seq: int,
    request: RetrieveRequest,
    solution: Row | None = None,
    feedback: str | None = None,
) -> Row:
    has_context = bool(selection.notes or solution or feedback)
    shown = without_thinking(solution["text"]) if solution else None
    messages = context_messages(problem, selection, shown, feedback, request) if has_context else problem.messages
    return {
        "prompt_id": prompt_id,
        "problem_id": problem.id,
        "split": problem.split,
        "messages": dump_messages(messages),
        "has_context": has_context,
        "items": json.dumps([_explained(n) for n in selection.notes]),
        "demonstration": solution["rollout_id"] if solution else None,
        "feedback": feedback is not None,
        "seq": seq,
    }


def _explained(note: Note) -> dict[str, Any]:
    return {
        "id": note.item.id,
        "version": note.item.version,
        "level": note.item.level,
        "text": note.text,
        "score": round(note.score, 4),
        "credibility": round(note.credibility, 4),
        "reason": note.reason,
        "sources": _sources(note.item),
    }


def _sources(item: Item) -> list[str]:
    return [item.facts["rollout_id"]] if item.level == "experience" else item.facts.get("sources", [])


def with_chance(chosen: Selection, problem_id: str, request: RetrieveRequest) -> Selection:
    """A selection without what chance holds out of it."""
    share = request.quality.hold_out
    if not share:
        return chosen
    return chosen.filtered(
        lambda note: (
            note.item.held
            or note.item.level == "experience"
            or not held_out(request.step, problem_id, note.item.text, share)
        )
    )


def retrieve(ledger: Ledger, search: Search, request: RetrieveRequest, job: JobContext) -> RetrieveResult:
    """Render the contexts of a step (per rollout) or of problems (for `memory_agent`)."""
    problems = read_problems(request.problems)
    rollouts = read_table(request.rollouts) if request.rollouts else []
    wanted = request.problem_ids
    if wanted is None:
        wanted = list(dict.fromkeys(r["problem_id"] for r in rollouts)) if rollouts else list(problems)
    select: Selector = nothing
    may_show: MayShow = anything
    seq = edits = 0
    index, degraded = None, False
    if request.bank is not None and request.settings.levels:
        edits = ledger.begin_step(request.bank, request.step)
        asked = [problems[pid] for pid in wanted]
        retriever = Retriever(
            ledger,
            search,
            request.bank,
            asked,
            request.step,
            request.settings,
            request.chance,
            request.quality.leak_guard,
            job.check,
        )
        index, degraded = retriever.index, retriever.degraded
        select, seq, may_show = retriever.select, retriever.seq, retriever.may_show
    chosen = {pid: select(problems[pid]) for pid in wanted}
    selections = {pid: with_chance(selection, pid, request) for pid, selection in chosen.items()}
    job.check()
    if request.rollouts is None:
        rows = [_row(pid, problems[pid], selections[pid], seq, request) for pid in wanted]
    else:
        rows = _per_rollout(rollouts, problems, selections, may_show, seq, request)
    shown = {"demonstration": sum(r["demonstration"] is not None for r in rows)}
    shown |= {"feedback": sum(r["feedback"] for r in rows)}
    contexts = write_table(request.out, rows, CONTEXTS)
    if request.bank is not None and seq:
        ledger.note_contexts(request.bank, job.key, request.step, seq, contexts, _uses(chosen, selections))
    return RetrieveResult(
        contexts=contexts,
        seq=seq,
        edits=edits,
        with_context=sum(r["has_context"] for r in rows),
        items_used=counts(selections) | shown,
        index=index,
        degraded=degraded,
    )


def _uses(chosen: Mapping[str, Selection], shown: Mapping[str, Selection]) -> list[Use]:
    """Which items the contexts of a step show, and which chance held out."""
    return [
        Use(pid, n.item.id, n.item.version, n.score, n.credibility, n in shown[pid].notes)
        for pid, selection in chosen.items()
        for n in selection.notes
    ]


def _per_rollout(
    rollouts: Sequence[Row],
    problems: Mapping[str, Problem],
    selections: Mapping[str, Selection],
    may_show: MayShow,
    seq: int,
    request: RetrieveRequest,
) -> list[Row]:
    if request.verdicts is None:
        raise ValueError("verdicts are needed beside rollouts: the in-batch context shows only verified solutions")
    verdicts = {row["rollout_id"]: row for row in read_table(request.verdicts)}
    passed: dict[str, list[Row]] = defaultdict(list)
    for row in rollouts:
        if verdicts[row["rollout_id"]]["outcome"] == Outcome.PASSED and may_show(row["problem_id"], row["text"]):
            passed[row["problem_id"]].append(row)
    rows = []
    for row in rollouts:
        verdict = verdicts[row["rollout_id"]]
        solution = demonstration(row, passed[row["problem_id"]], request)
        feedback = verdict["feedback"] if shows_feedback(verdict, solution is not None, request) else None
        problem = problems[row["problem_id"]]
        selection = selections[problem.id]
        rows.append(_row(row["rollout_id"], problem, selection, seq, request, solution, feedback))
    return rows
