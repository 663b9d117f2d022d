"""`retrieve`: one teacher context per rollout, rendered from memory and from the rollout's own batch.

A context is the problem with notes (memory), a verified sibling's solution or the rollout's own feedback
(in-batch, as in SDPO, arXiv 2601.20802), and the closing request, all placed by the recipe's teacher template; and,
where the recipe shows memory as turns, attempts at other problems before it.

Invariants (Law 3): a rollout is never its own demonstration, and a solution that says what a person has banned is
nobody's; experience of the problem itself that memory shows is the head of an attempt of an earlier step, never a whole
program; it passes the leak guard, and so do attempts at other problems, which are shown whole. Law 8: every context
lists the items it shows with their versions, the bank's `seq` it was rendered from, and why other notes that were found
for it are not among them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pmd.services.common.artifacts import dump_messages, read_problems, read_table, write_table
from pmd.services.common.columns import CONTEXTS
from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import RetrieveRequest, RetrieveResult
from pmd.services.common.wire import Outcome, Problem
from pmd.services.memory.evidence.bank import mean_rewards
from pmd.services.memory.evidence.effect import UNTESTED_HOLD_OUT
from pmd.services.memory.evidence.quality import held_out
from pmd.services.memory.evidence.terms import AGREE, excerpt, similarity, terms, without_thinking
from pmd.services.memory.index.search import Search
from pmd.services.memory.ledger import Ledger, Use
from pmd.services.memory.retrieve.render import explained, omitted, render
from pmd.services.memory.retrieve.select import Note, Selection, counts, select
from pmd.services.memory.retrieve.snapshot import Snapshot, read

Row = dict[str, Any]


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
    messages = problem.messages
    if has_context:
        messages = render(problem, selection, request.prompts, request.settings, shown, feedback)
    return {
        "prompt_id": prompt_id,
        "problem_id": problem.id,
        "split": problem.split,
        "messages": dump_messages(messages),
        "has_context": has_context,
        "items": json.dumps([explained(n) for n in selection.notes]),
        "left_out": json.dumps([omitted(n) for n in selection.left_out]),
        "turns": len(selection.turns),
        "demonstration": solution["rollout_id"] if solution else None,
        "feedback": feedback is not None,
        "seq": seq,
    }


def with_hold_out(chosen: Selection, problem_id: str, request: RetrieveRequest) -> Selection:
    """A selection without the notes that are held out at random: `memory.quality.hold_out`, and more of those that
    nothing speaks for or against yet."""

    def stays(note: Note) -> bool:
        share = request.quality.hold_out if note.tested else max(request.quality.hold_out, UNTESTED_HOLD_OUT)
        exempt = note.item.protected or note.item.level == "experience"
        return exempt or not held_out(request.step, problem_id, note.item.text, share)

    why = "held out by chance, to learn what it is worth"
    held = tuple(note.left_out("held_out", why) for note in chosen.notes if not stays(note))
    return replace(chosen.filtered(stays), left_out=(*chosen.left_out, *held))


def retrieve(ledger: Ledger, search: Search, request: RetrieveRequest, job: JobContext) -> RetrieveResult:
    """Render the contexts of a step (per rollout) or of problems (for `memory_agent`)."""
    rollouts = read_table(request.rollouts) if request.rollouts else []
    wanted = request.problem_ids
    if wanted is None and rollouts:
        wanted = list(dict.fromkeys(r["problem_id"] for r in rollouts))
    problems = read_problems(request.problems, wanted)
    wanted = list(problems) if wanted is None else wanted
    snapshot: Snapshot | None = None
    edits = 0
    if request.bank is not None and request.settings.levels:
        edits = ledger.begin_step(request.bank, request.step)
        asked = [problems[pid] for pid in wanted]
        snapshot = read(
            ledger,
            search,
            request.bank,
            asked,
            request.step,
            request.settings,
            evidence=request.evidence,
            base_pass_rate=request.base_pass_rate,
            check=job.check,
        )
    chosen = {pid: _chosen(problems[pid], snapshot, request) for pid in wanted}
    selections = dict(chosen)
    if request.trial:
        selections = {pid: with_hold_out(selection, pid, request) for pid, selection in chosen.items()}
    seq = snapshot.seq if snapshot else 0
    job.check()
    if request.rollouts is None:
        rows = [_row(pid, problems[pid], selections[pid], seq, request) for pid in wanted]
    else:
        rows = _per_rollout(rollouts, problems, selections, snapshot, request)
    shown = {"demonstration": sum(r["demonstration"] is not None for r in rows)}
    shown |= {"feedback": sum(r["feedback"] for r in rows)}
    if request.settings.render != "notes":
        shown |= {"turns": sum(r["turns"] > 0 for r in rows)}
    contexts = write_table(request.out, rows, CONTEXTS)
    if request.bank is not None and seq:
        base = mean_rewards(request.verdicts) if request.verdicts else {}
        ledger.note_contexts(request.bank, job.key, request.step, seq, contexts, _uses(chosen, selections, base))
    return RetrieveResult(
        contexts=contexts,
        seq=seq,
        edits=edits,
        with_context=sum(r["has_context"] for r in rows),
        items_used=counts(selections) | shown,
        left_out=sum(any(n.item.protected for n in selections[r["problem_id"]].left_out) for r in rows),
        index=snapshot.index if snapshot else None,
        degraded=snapshot is not None and snapshot.degraded,
    )


def _chosen(problem: Problem, snapshot: Snapshot | None, request: RetrieveRequest) -> Selection:
    """The notes for a problem; none where there is no memory to choose from."""
    if snapshot is None:
        return Selection()
    return select(problem, snapshot, request.settings, leak_guard=request.quality.leak_guard)


def _uses(chosen: Mapping[str, Selection], shown: Mapping[str, Selection], base: Mapping[str, float]) -> list[Use]:
    """Which items the contexts of a step show, and which chance held out."""
    return [
        Use(pid, n.item.id, n.item.version, n.score, n.credibility, n in shown[pid].notes, base.get(pid))
        for pid, selection in chosen.items()
        for n in selection.notes
    ]


def _per_rollout(
    rollouts: Sequence[Row],
    problems: Mapping[str, Problem],
    selections: Mapping[str, Selection],
    snapshot: Snapshot | None,
    request: RetrieveRequest,
) -> list[Row]:
    if request.verdicts is None:
        raise ValueError("verdicts are needed beside rollouts: the in-batch context shows only verified solutions")
    verdicts = {row["rollout_id"]: row for row in read_table(request.verdicts)}
    passed: dict[str, list[Row]] = defaultdict(list)
    for row in rollouts:
        banned = snapshot is not None and snapshot.bans.forbids_solution(row["problem_id"], row["text"])
        if verdicts[row["rollout_id"]]["outcome"] == Outcome.PASSED and not banned:
            passed[row["problem_id"]].append(row)
    seq = snapshot.seq if snapshot else 0
    rows = []
    for row in rollouts:
        verdict = verdicts[row["rollout_id"]]
        solution = demonstration(row, passed[row["problem_id"]], request)
        feedback = verdict["feedback"] if shows_feedback(verdict, solution is not None, request) else None
        problem = problems[row["problem_id"]]
        selection = selections[problem.id]
        rows.append(_row(row["rollout_id"], problem, selection, seq, request, solution, feedback))
    return rows
