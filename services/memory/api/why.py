"""Why a note is shown, or not, in the contexts of a step: from their record, and from the ledger where it says nothing.

Invariant: nothing is computed anew. What a context's record says is what was decided then; what it does not name was
not found for that problem.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query

from pmd.services.common.app import known_query
from pmd.services.common.bank import Why, WhyHere
from pmd.services.common.curation import WhyQuery
from pmd.services.memory.api.deps import REFUSALS, BankId, InPath, TheLedger
from pmd.services.memory.api.explain import tables, written
from pmd.services.memory.curate import changes
from pmd.services.memory.ledger import Item, Ledger, reads
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import BY_PERSON, CONTEXTS, STEPS, VERSIONS

routes = APIRouter(tags=["explain"], dependencies=[Depends(known_query)])

STANDING = {
    "retired": "the machine had dropped it",
    "quarantined": "a guard had put it aside",
    "banned": "a person had banned it",
    "superseded": "a person had merged or split it into others",
}


@routes.get("/v1/banks/{bank}/items/{item_id}/why", responses=REFUSALS)
def why_item(bank: BankId, item_id: InPath, asked: Annotated[WhyQuery, Query()], ledger: TheLedger) -> Why:
    """Whether the contexts of a step show a note, problem by problem, and why not: too long, not believed,
    contradicted, giving the answer away, held out by chance, not found, or put away by then."""
    with ledger.read() as db:
        now = load(db, bank, [item_id]).get(item_id)
        if now is None:
            raise changes.Missing(f"no item {item_id!r} in bank {bank!r}")
        step = asked.step
        if step is None:
            step = db.scalar(sa.select(sa.func.max(CONTEXTS.c.step)).where(CONTEXTS.c.bank == bank))
        jobs = [] if step is None else written(db, bank, step)
    if not jobs:
        raise changes.Missing(f"bank {bank!r} knows no contexts" + ("" if step is None else f" of step {step}"))
    rows = _rows(jobs)
    if asked.problem_id is not None:
        rows = {pid: found for pid, found in rows.items() if pid == asked.problem_id}
        if not rows:
            raise changes.Missing(f"step {step} rendered no contexts of problem {asked.problem_id!r}")
    seq = max(row["seq"] for found in rows.values() for row in found)
    then = _then(ledger, bank, item_id, int(jobs[0].step), seq)
    here = [at for pid, found in rows.items() if (at := _at(item_id, pid, found)) is not None]
    named = {at.problem_id for at in here}
    home = {asked.problem_id, None if now.level == "behavior" else now.scope} & rows.keys()
    here += [
        WhyHere(
            problem_id=pid,
            shown=False,
            cause=None,
            reason=_unfound(now, then, home=pid == now.scope),
            contexts=len(rows[pid]),
        )
        for pid in sorted(pid for pid in home - named if pid is not None)
    ]
    return Why(
        id=item_id,
        step=int(jobs[0].step),
        seq=seq,
        status=then.status if then else None,
        version=then.version if then else None,
        problems=sorted(here, key=lambda at: (not at.shown, at.problem_id)),
        others=len(rows) - len(here),
        reason=_unfound(now, then, home=False) if len(rows) > len(here) else "",
    )


def _rows(jobs: Sequence[sa.Row[Any]]) -> dict[str, list[dict[str, Any]]]:
    """The contexts of a step by problem; of jobs that rendered the same problem's the newest counts.

    Raises:
        changes.Missing: when none of them can be read any more.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for _, rows in tables(jobs):
            new: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                new.setdefault(row["problem_id"], []).append(row)
            found = new | found
    except changes.Missing:
        if not found:
            raise
    return found


def _at(item_id: str, problem_id: str, rows: list[dict[str, Any]]) -> WhyHere | None:
    """What the contexts of a problem say of a note; None where they do not name it."""
    for row in rows:
        for shown in json.loads(row["items"]):
            if shown["id"] == item_id:
                reason = shown["reason"]
                return WhyHere(problem_id=problem_id, shown=True, cause=None, reason=reason, contexts=len(rows))
        for left in json.loads(row.get("left_out") or "[]"):
            if left["id"] == item_id:
                cause, reason = left.get("cause"), left["reason"]
                return WhyHere(problem_id=problem_id, shown=False, cause=cause, reason=reason, contexts=len(rows))
    return None


def _then(ledger: Ledger, bank: str, item_id: str, step: int, seq: int) -> Item | None:
    """A note as a step saw it at a `seq`: what people changed since the step began is left out."""
    with ledger.read() as db:
        began = db.scalar(sa.select(STEPS.c.seq).where(STEPS.c.bank == bank, STEPS.c.step == step))
        here = sa.and_(VERSIONS.c.bank == bank, VERSIONS.c.id == item_id, VERSIONS.c.seq <= seq, BY_PERSON)
        since = sa.select(sa.func.min(VERSIONS.c.seq)).where(here, VERSIONS.c.seq > (seq if began is None else began))
        changed = db.scalar(since)
        return reads.at_seq(db, bank, seq if changed is None else changed - 1, [item_id]).get(item_id)


def _unfound(now: Item, then: Item | None, *, home: bool) -> str:
    """Why a note was not found for a problem whose contexts do not name it.

    Args:
        home: the problem is the note's own.
    """
    if then is None:
        return "the step did not know it: it is newer, or a person added it after the step had begun"
    if then.status != "active":
        why = now.facts.get("leak") or now.facts.get("harm")
        return f"it was {then.status} then: {STANDING[then.status]}" + (f" ({why})" if why else "")
    if then.level == "behavior":
        topic = then.facts.get("topic")
        about = f"the questions do not have its topic {topic!r}" if topic else "the questions are not like it"
        return f"{about} (retrieval.min_similarity), or the recipe shows no behaviors (memory.levels)"
    if home:
        return f"the recipe shows no {then.level}s (memory.levels), or another one stands for it"
    if then.kind == "strategy":
        others = "others are shown it where it speaks about them, or they ask the like and have none of their own"
        return f"it is a strategy of {then.scope}: {others}"
    return f"it is {'an attempt at' if then.kind == 'attempt' else 'a lesson of'} {then.scope}"
