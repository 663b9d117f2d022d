"""Names for moments of a bank, and what changed between two of them.

Invariants:
- A snapshot is a name for a `seq`: nothing is copied, as the ledger's versions are append-only.
- A name stands for one `seq` until it is deleted, and both are acts in the audit log.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from pmd.services.common.bank import SnapshotView
from pmd.services.common.curation import Moment, NewSnapshot
from pmd.services.common.wire import Level
from pmd.services.memory.curate.changes import Conflict, Invalid, Missing, Versions
from pmd.services.memory.ledger import Item, Transaction, reads
from pmd.services.memory.ledger.tables import SNAPSHOTS

NOTES: tuple[Level, ...] = ("insight", "behavior")


class NotThere(RuntimeError):
    """A snapshot stands for another `seq` than the one that was seen."""

    def __init__(self, snapshot: SnapshotView) -> None:
        super().__init__(f"snapshot {snapshot.name!r} stands for seq {snapshot.seq}; look at it and try again")
        self.snapshot = snapshot


def named(db: sa.Connection, bank: str) -> list[SnapshotView]:
    """All snapshots of a bank, newest `seq` first."""
    query = sa.select(SNAPSHOTS).where(SNAPSHOTS.c.bank == bank).order_by(SNAPSHOTS.c.seq.desc(), SNAPSHOTS.c.name)
    return [_view(row) for row in db.execute(query)]


def snapshot(db: sa.Connection, bank: str, name: str) -> SnapshotView:
    """One snapshot.

    Raises:
        Missing: when there is none of this name.
    """
    row = db.execute(sa.select(SNAPSHOTS).where(SNAPSHOTS.c.bank == bank, SNAPSHOTS.c.name == name)).first()
    if row is None:
        raise Missing(f"no snapshot {name!r} in bank {bank!r}")
    return _view(row)


def _view(row: sa.Row[tuple[object, ...]]) -> SnapshotView:
    return SnapshotView(**{field: row._mapping[field] for field in SnapshotView.model_fields})


def seq_of(db: sa.Connection, bank: str, moment: Moment) -> int:
    """The `seq` that a moment is: a number is its own.

    Raises:
        Missing: when it is the name of no snapshot.
    """
    return moment if isinstance(moment, int) else snapshot(db, bank, moment).seq


def name(tx: Transaction, new: NewSnapshot, actor: str) -> SnapshotView:
    """Give a moment of the bank a name."""
    now = tx.seq - 1
    if new.seq is not None and not 0 < new.seq <= now:
        raise Invalid("seq", f"the bank is at seq {now}; {new.seq} is not in its past")
    taken = sa.select(SNAPSHOTS.c.seq).where(SNAPSHOTS.c.bank == tx.bank, SNAPSHOTS.c.name == new.name)
    if (there := tx.db.scalar(taken)) is not None:
        raise Conflict(f"snapshot {new.name!r} names seq {there} already; delete it first, or take another name")
    made = SnapshotView(name=new.name, seq=new.seq or now, at=time.time(), actor=actor, note=new.note)
    tx.insert(SNAPSHOTS, [made.model_dump() | {"bank": tx.bank}])
    tx.log(actor, "snapshot", name=made.name, of=made.seq)
    return made


def forget(tx: Transaction, name_: str, seqs: Versions, actor: str) -> None:
    """Delete a name; the moment stays in the history."""
    there = snapshot(tx.db, tx.bank, name_)
    if seqs is not None and there.seq not in seqs:
        raise NotThere(there)
    tx.db.execute(sa.delete(SNAPSHOTS).where(SNAPSHOTS.c.bank == tx.bank, SNAPSHOTS.c.name == name_))
    tx.log(actor, "delete snapshot", name=name_, of=there.seq)


def changed(
    db: sa.Connection, bank: str, since: int, until: int, level: Level | None, after: str, limit: int
) -> tuple[list[tuple[Item | None, Item]], str | None]:
    """Items that differ between two moments in what people see of them, each as it was and as it is then, by id.
    What came and went in between is no difference.

    Args:
        level: None: insights and behaviors.
        after: the id of the last item of the page before.

    Returns:
        At most `limit` pairs, and the id to go on from, if there may be more.
    """
    levels = NOTES if level is None else (level,)
    found: list[tuple[Item | None, Item]] = []
    while len(found) < limit:
        ids = reads.changed_ids(db, bank, since, until, levels, after, limit)
        before, now = (reads.at_seq(db, bank, seq, ids) for seq in (since, until))
        for item_id in ids:
            old, new = before.get(item_id), now[item_id]
            if new.status == "active" if old is None else _seen(old) != _seen(new):
                found.append((old, new))
                if len(found) == limit:
                    return found, item_id
        if len(ids) < limit:
            return found, None
        after = ids[-1]
    return found, after


def _seen(item: Item) -> tuple[object, ...]:
    return item.text, item.kind, item.status, item.pinned, item.edited
