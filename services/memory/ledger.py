"""The ledger: every memory item with its versions, in SQL. It is the truth; any index is rebuilt from it.

Invariants:
- Every change of a bank happens in one transaction that grows the bank's `seq`; what a job writes, it writes
  in one transaction together with the job's key, so that a repeated job changes nothing.
- Items are never deleted while their bank lives: they are retired or quarantined, and their versions stay.
- An item's id is a function of its bank, level, scope and text: the same thought written twice is one item.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from services.common.wire import Level, MemoryCounts

Kind = Literal["attempt", "strategy", "lesson", "behavior"]
Status = Literal["active", "retired", "quarantined"]

_NAMESPACE = uuid.UUID("6f1d0c52-93a7-4a57-9f0e-5b6c7f6f2f11")

_meta = sa.MetaData()
_banks = sa.Table(
    "banks", _meta, sa.Column("bank", sa.String, primary_key=True), sa.Column("seq", sa.BigInteger, nullable=False)
)
_writes = sa.Table(
    "writes", _meta, sa.Column("bank", sa.String, primary_key=True), sa.Column("key", sa.String, primary_key=True)
)
_problems = sa.Table(
    "problems",
    _meta,
    sa.Column("bank", sa.String, primary_key=True),
    sa.Column("problem_id", sa.String, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
_items = sa.Table(
    "items",
    _meta,
    sa.Column("bank", sa.String, primary_key=True),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("level", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("policy_version", sa.Integer, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Index("items_by_scope", "bank", "level", "status", "scope"),
    sa.Index("items_by_seq", "bank", "seq"),
)
_versions = sa.Table(
    "versions",
    _meta,
    sa.Column("bank", sa.String, primary_key=True),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
)


class UnknownBank(KeyError):
    """No such bank, or nothing was ever written to it."""


@dataclass(frozen=True)
class Item:
    """One memory item at one version."""

    level: Level
    kind: Kind
    scope: str
    """The problem id (experience, insight) or the cluster (behavior)."""
    text: str
    step: int
    """Training step that wrote or last confirmed it."""
    policy_version: int
    status: Status = "active"
    facts: dict[str, Any] = field(default_factory=dict)
    """Evidence and provenance: sources, passed, feedback, support, members, reason of a quarantine."""
    id: str = ""
    version: int = 1
    seq: int = 0

    def identity(self, bank: str) -> str:
        """The id of this thought in `bank`."""
        unique = self.facts.get("rollout_id", self.text)
        return str(uuid.uuid5(_NAMESPACE, json.dumps([bank, self.level, self.kind, self.scope, unique])))


def _item(row: Any) -> Item:
    return Item(
        level=row.level,
        kind=row.kind,
        scope=row.scope,
        text=row.text,
        step=row.step,
        policy_version=row.policy_version,
        status=row.status,
        facts=json.loads(row.facts),
        id=row.id,
        version=row.version,
        seq=row.seq,
    )


class Transaction:
    """Changes of one bank that become visible together."""

    def __init__(self, connection: sa.Connection, bank: str, seq: int) -> None:
        self._db = connection
        self._bank = bank
        self.seq = seq

    def put_problems(self, bodies: dict[str, str]) -> None:
        """Remember the problems that experience is about (JSON by id)."""
        known = set(
            self._db.scalars(
                sa.select(_problems.c.problem_id).where(
                    _problems.c.bank == self._bank, _problems.c.problem_id.in_(list(bodies))
                )
            )
        )
        rows = [{"bank": self._bank, "problem_id": k, "body": v} for k, v in bodies.items() if k not in known]
        if rows:
            self._db.execute(sa.insert(_problems), rows)

    def write(self, items: Iterable[Item], actor: str) -> None:
        """Add items. One that exists gets a new version if its status or facts changed."""
        fresh = {item.identity(self._bank): item for item in items}
        known = {
            row.id: _item(row)
            for row in self._db.execute(
                sa.select(_items).where(_items.c.bank == self._bank, _items.c.id.in_(list(fresh)))
            )
        }
        added, versions = [], []
        for item_id, item in fresh.items():
            old = known.get(item_id)
            new = replace(item, id=item_id, version=old.version + 1 if old else 1, seq=self.seq)
            row = self._row(new)
            if old is None:
                added.append(row)
            elif (old.status, old.facts, old.step) == (new.status, new.facts, new.step):
                continue
            else:
                self._db.execute(sa.update(_items).where(self._is(item_id)).values(**row))
            if item.level != "experience":  # attempts never change; their row is their history
                versions.append(self._version(new, actor))
        if added:
            self._db.execute(sa.insert(_items), added)
        if versions:
            self._db.execute(sa.insert(_versions), versions)

    def set_status(self, items: Iterable[Item], status: Status, step: int, actor: str) -> None:
        """Retire or quarantine items; their text and history stay."""
        for item in items:
            new = replace(item, status=status, version=item.version + 1, seq=self.seq)
            values = {"status": status, "version": new.version, "seq": self.seq}
            self._db.execute(sa.update(_items).where(self._is(item.id)).values(**values))
            if item.level != "experience":
                self._db.execute(sa.insert(_versions), [self._version(replace(new, step=step), actor)])

    def _is(self, item_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(_items.c.bank == self._bank, _items.c.id == item_id)

    def _row(self, item: Item) -> dict[str, Any]:
        return {
            "bank": self._bank,
            "id": item.id,
            "level": item.level,
            "kind": item.kind,
            "scope": item.scope,
            "text": item.text,
            "status": item.status,
            "version": item.version,
            "seq": item.seq,
            "step": item.step,
            "policy_version": item.policy_version,
            "facts": json.dumps(item.facts, sort_keys=True),
        }

    def _version(self, item: Item, actor: str) -> dict[str, Any]:
        row = self._row(item)
        return {k: row[k] for k in ("bank", "id", "version", "seq", "step", "text", "status", "facts")} | {
            "actor": actor
        }


class Ledger:
    """All banks of an installation; thread-safe."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":

            @sa.event.listens_for(self._engine, "connect")
            def configure(connection: Any, _: Any) -> None:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute("PRAGMA busy_timeout=10000")

        _meta.create_all(self._engine)
        self.dialect = self._engine.dialect.name
        self._insert = postgresql.insert if self.dialect == "postgresql" else sqlite.insert

    def apply(self, bank: str, key: str, change: Callable[[Transaction], None]) -> MemoryCounts:
        """Run `change` once for ever for this key, in one transaction, and return the bank's size after it."""
        with self._engine.begin() as db:
            # The bank's row is the lock: touching it serialises the writers of one bank on every database.
            db.execute(self._insert(_banks).on_conflict_do_nothing(), [{"bank": bank, "seq": 0}])
            db.execute(sa.update(_banks).where(_banks.c.bank == bank).values(seq=_banks.c.seq))
            done = sa.select(_writes.c.key).where(_writes.c.bank == bank, _writes.c.key == key)
            if db.execute(done).first() is None:
                seq = db.execute(sa.select(_banks.c.seq).where(_banks.c.bank == bank)).scalar_one() + 1
                db.execute(sa.update(_banks).where(_banks.c.bank == bank).values(seq=seq))
                change(Transaction(db, bank, seq))
                db.execute(sa.insert(_writes), [{"bank": bank, "key": key}])
        return self.counts(bank)

    def counts(self, bank: str) -> MemoryCounts:
        """Active items by level and the bank's `seq`.

        Raises:
            UnknownBank: when nothing was ever written to it.
        """
        query = (
            sa.select(_items.c.level, sa.func.count())
            .where(_items.c.bank == bank, _items.c.status == "active")
            .group_by(_items.c.level)
        )
        with self._engine.connect() as db:
            seq = db.execute(sa.select(_banks.c.seq).where(_banks.c.bank == bank)).scalar()
            sizes = {row[0]: row[1] for row in db.execute(query)}
        if seq is None:
            raise UnknownBank(bank)
        return MemoryCounts(
            seq=seq,
            experience=sizes.get("experience", 0),
            insight=sizes.get("insight", 0),
            behavior=sizes.get("behavior", 0),
        )

    def seq(self, bank: str) -> int:
        """The bank's `seq`; 0 for a bank that does not exist yet."""
        with self._engine.connect() as db:
            return int(db.execute(sa.select(_banks.c.seq).where(_banks.c.bank == bank)).scalar() or 0)

    def active(self, bank: str, level: Level, scopes: Sequence[str] | None = None) -> list[Item]:
        """Active items of a level, oldest first; of some problems or clusters only when `scopes` is given."""
        query = sa.select(_items).where(_items.c.bank == bank, _items.c.level == level, _items.c.status == "active")
        if scopes is not None:
            query = query.where(_items.c.scope.in_(list(scopes)))
        with self._engine.connect() as db:
            return [_item(row) for row in db.execute(query.order_by(_items.c.step, _items.c.seq, _items.c.id))]

    def changes(self, bank: str, after_seq: int, limit: int = 1000) -> list[Item]:
        """Items that changed after `after_seq`, each at its newest version, in order of (seq, id).

        Every status is reported: whoever keeps a copy removes what is no longer active. What one transaction changed
        is never cut in two, so there may be more than `limit` items, and the last one's `seq` is where to go on. Seqs
        become visible in order (the bank's row is locked while one is handed out): a reader who goes on from the
        highest seq it has seen misses nothing.
        """
        since = sa.and_(_items.c.bank == bank, _items.c.seq > after_seq)
        last = sa.select(_items.c.seq).where(since).order_by(_items.c.seq).offset(limit - 1).limit(1)
        # No such item means that all of them fit.
        fits = _items.c.seq <= sa.func.coalesce(last.scalar_subquery(), sa.literal(2**63 - 1, sa.BigInteger))
        query = sa.select(_items).where(since, fits).order_by(_items.c.seq, _items.c.id)
        with self._engine.connect() as db:
            return [_item(row) for row in db.execute(query)]

    def page(
        self, bank: str, *, level: Level | None, status: Status | None, text: str | None, after: str, limit: int
    ) -> list[Item]:
        """Items in order of id, for people; `text` filters by substring."""
        query = sa.select(_items).where(_items.c.bank == bank, _items.c.id > after)
        if level is not None:
            query = query.where(_items.c.level == level)
        if status is not None:
            query = query.where(_items.c.status == status)
        if text:
            query = query.where(_items.c.text.icontains(text, autoescape=True))
        with self._engine.connect() as db:
            return [_item(row) for row in db.execute(query.order_by(_items.c.id).limit(limit))]

    def item(self, bank: str, item_id: str) -> Item | None:
        """One item, or None."""
        with self._engine.connect() as db:
            row = db.execute(sa.select(_items).where(_items.c.bank == bank, _items.c.id == item_id)).first()
        return _item(row) if row else None

    def history(self, bank: str, item_id: str) -> list[dict[str, Any]]:
        """All versions of an item, oldest first."""
        query = sa.select(_versions).where(_versions.c.bank == bank, _versions.c.id == item_id)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(_versions.c.version)).mappings().all()
        return [dict(row) | {"facts": json.loads(row["facts"])} for row in rows]

    def problems(self, bank: str) -> dict[str, str]:
        """Bodies (JSON) of the problems that the bank has experience of, by id."""
        query = sa.select(_problems.c.problem_id, _problems.c.body).where(_problems.c.bank == bank)
        with self._engine.connect() as db:
            return {row.problem_id: row.body for row in db.execute(query.order_by(_problems.c.problem_id))}

    def delete(self, bank: str) -> None:
        """Forget a bank entirely.

        Raises:
            UnknownBank: when it does not exist.
        """
        with self._engine.begin() as db:
            if not db.execute(sa.delete(_banks).where(_banks.c.bank == bank)).rowcount:
                raise UnknownBank(bank)
            for table in (_writes, _problems, _items, _versions):
                db.execute(sa.delete(table).where(table.c.bank == bank))
