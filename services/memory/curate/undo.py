"""Undoing an act of a person: what it changed goes back to what it was before, as new versions.

Invariants:
- No write is lost: when anybody has changed since what the act changed, the whole undo is refused.
- What machines learned about a note since stays: only its text, kind, standing and hold go back.
- An undo is an act like any other and can be undone; the last act is the last one that is still in force.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import sqlalchemy as sa

from pmd.services.memory.curate.changes import Conflict, Missing, Said, Stale
from pmd.services.memory.ledger import Item, Transaction, reads
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import AUDIT, BY_PERSON, PROPOSALS, VERSIONS

ACTION = "undo"


@dataclass(frozen=True)
class Act:
    """One transaction of a person."""

    seq: int
    actor: str
    action: str
    undoes: int | None
    """Of an undo: the act that it undid."""


def acts(db: sa.Connection, bank: str) -> Iterator[tuple[Act, bool]]:
    """The acts of people, newest first, each with whether it is in force: it was not undone, or its undoing was."""
    query = sa.select(AUDIT).where(AUDIT.c.bank == bank, BY_PERSON).order_by(AUDIT.c.seq.desc(), AUDIT.c.n)
    undone: set[int] = set()
    for seq, rows in groupby(db.execute(query), key=lambda row: row.seq):
        first = next(rows)
        undoes = json.loads(first.detail)["of"] if first.action == ACTION else None
        in_force = seq not in undone
        if in_force and undoes is not None:
            undone.add(undoes)
        yield Act(seq, first.actor, first.action, undoes), in_force


def last(db: sa.Connection, bank: str, actor: str) -> Act:
    """The last act of `actor` that is in force and changed something; no undo.

    Raises:
        Missing: when there is none.
    """
    for act, in_force in acts(db, bank):
        if in_force and act.actor == actor and act.undoes is None and _left_traces(db, bank, act.seq):
            return act
    raise Missing(f"no act of {actor!r} is left to undo in bank {bank!r}; name another's by its seq")


def _left_traces(db: sa.Connection, bank: str, seq: int) -> bool:
    wrote = sa.select(VERSIONS.c.id).where(VERSIONS.c.bank == bank, VERSIONS.c.seq == seq).limit(1)
    return db.execute(wrote).first() is not None or bool(_decided(db, bank, seq))


def _decided(db: sa.Connection, bank: str, seq: int) -> list[str]:
    """Proposals that an act accepted or rejected."""
    here = sa.and_(PROPOSALS.c.bank == bank, PROPOSALS.c.seq == seq, PROPOSALS.c.status != "open")
    return list(db.scalars(sa.select(PROPOSALS.c.id).where(here).order_by(PROPOSALS.c.id)))


def _named(db: sa.Connection, bank: str, seq: int) -> Act:
    for act, in_force in acts(db, bank):
        if act.seq == seq and not in_force:
            raise Conflict(f"act {seq} is undone already")
        if act.seq == seq:
            return act
        if act.seq < seq:
            break
    raise Missing(f"no person acted at seq {seq} of bank {bank!r}; the audit log has the acts of people")


def undo(tx: Transaction, seq: int | None, actor: str) -> tuple[Act, list[Item], list[str]]:
    """Undo the act at `seq`, or the last one of `actor`.

    Returns:
        The act, the items as they are now, and the proposals that are open again.

    Raises:
        Missing: when there is no such act.
        Stale: when something that it changed has been changed since.
        Conflict: when it is undone already, changed nothing, or a note can't be active again.
    """
    act = last(tx.db, tx.bank, actor) if seq is None else _named(tx.db, tx.bank, seq)
    left = reads.written_at(tx.db, tx.bank, act.seq)
    reopened = _decided(tx.db, tx.bank, act.seq)
    if not left and not reopened:
        raise Conflict(f"act {act.seq} ({act.action}) changed no memory: there is nothing to undo")
    now = load(tx.db, tx.bank, list(left))
    for item_id, item in left.items():
        if _decided_of(now[item_id]) != _decided_of(item):
            raise Stale(now[item_id])
    before = reads.at_seq(tx.db, tx.bank, act.seq - 1, list(left))
    back = [_back(now[item_id], left[item_id], before.get(item_id)) for item_id in left]
    said = Said(tx.db, tx.bank, but=list(left))
    for item in back:
        changes_words = item.status == "active" and item.level != "experience"
        if changes_words and _decided_of(item) != _decided_of(now[item.id]) and (why := said.objection(item)):
            raise Conflict(f"{item.id}: {why}")
    done = [tx.put(item, actor, ACTION, of=act.seq) for item in back]
    for proposal in reopened:
        here = sa.and_(PROPOSALS.c.bank == tx.bank, PROPOSALS.c.id == proposal)
        tx.db.execute(sa.update(PROPOSALS).where(here).values(status="open", decided_by=None, seq=tx.seq))
    if not done:
        tx.log(actor, ACTION, of=act.seq, proposals=reopened)
    return act, done, reopened


def _decided_of(item: Item) -> tuple[object, ...]:
    """What of an item people decide; the rest is evidence."""
    return item.text, item.kind, item.status, item.pinned, item.edited


def _back(now: Item, left: Item, before: Item | None) -> Item:
    """An item as it is to be once the act is undone: what was added is retired."""
    if before is None:
        return replace(now, status="retired", pinned=False, edited=False)
    learned = now.facts if now.facts != left.facts else before.facts
    return replace(
        now,
        text=before.text,
        kind=before.kind,
        status=before.status,
        pinned=before.pinned,
        edited=before.edited,
        facts=learned,
    )
