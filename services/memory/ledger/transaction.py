"""Changes of one bank that become visible together, under one `seq`.

Machines `write` and `set_status`; what a person has decided about an item they can't change: they leave a proposal.
People `put` whole items, checked against the version that they saw. Both leave versions and an audit row behind.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pmd.services.common.bank import Status
from pmd.services.memory.ledger.items import ORIGIN, Banned, Item, Thought, by_person, fingerprint
from pmd.services.memory.ledger.rows import item_of, item_row, load, portions, version_row
from pmd.services.memory.ledger.tables import (
    ANNOTATIONS,
    AUDIT,
    BY_PERSON,
    ITEMS,
    LINKS,
    PROBLEMS,
    PROPOSALS,
    SETTLED,
    STEPS,
    USES,
    VERSIONS,
)

_PROPOSAL = uuid.UUID("0b7f5d5a-52c1-4c11-8f0d-6f0f4d8a3a11")
_AGAIN = uuid.UUID("7c0a8d0e-6b1f-4f7a-9d55-0a4f3c1e9b52")

# The text is left out: a machine never changes it, and naming it would make full-text search index it anew.
_UPDATE = (
    sa.update(ITEMS)
    .where(ITEMS.c.bank == sa.bindparam("new_bank"), ITEMS.c.id == sa.bindparam("new_id"))
    .values({c.name: sa.bindparam(f"new_{c.name}") for c in ITEMS.c if c.name not in {"number", "bank", "id", "text"}})
)

HARM = "harm"
"""Fact of a note that was measured to do harm: writing it again does not bring it back."""

_HOW = {"insight": "reflected", "behavior": "abstracted"}


class Transaction:
    """One transaction on one bank; `Ledger.apply` and `Ledger.change` make it."""

    def __init__(self, db: sa.Connection, bank: str, key: str, seq: int) -> None:
        self.db = db
        self.bank = bank
        self.key = key
        self.seq = seq
        self._audited = 0
        self._machine: Counter[str] = Counter()
        self._actor = "job"
        self.grown: Counter[str] = Counter({"experience": 0, "insight": 0, "behavior": 0})
        """By how many active items each level has grown."""

    # ------------------------------------------------------------ what machines do

    def put_problems(self, bodies: Mapping[str, str]) -> None:
        """Remember the problems that experience is about (JSON by id)."""
        rows = [{"bank": self.bank, "problem_id": k, "body": v, "seq": self.seq} for k, v in bodies.items()]
        self.insert(PROBLEMS, rows, ignore=True)

    def write(self, items: Iterable[Item], actor: str) -> None:
        """Add what a machine found. One that exists gets a new version if its status, facts or step changed.

        A note is left out when a person has banned its text or put it away, or holds an item that says it. When the
        person's item once said this and was edited, the old wording becomes a proposal.
        """
        self._actor = actor
        found = list(items)
        notes = [item for item in found if item.level != "experience"]
        settled = self._settled() if notes else []
        banned = Banned(i.text for i in settled if i.status == "banned")
        said = {item.thought for item in settled}
        added, changed = [], []
        for item_id, (written, old) in self._placed(found, notes).items():
            item = written
            if old is not None and ORIGIN in old.facts:
                item = replace(written, facts=written.facts | {ORIGIN: old.facts[ORIGIN]})
            if item.level != "experience" and (banned.says(item.text) or item.thought in said):
                self._machine["left to people"] += 1
            elif old is not None and old.settled:
                if old.protected and item.level != "experience" and item.status == "active":
                    self.propose(old, "replace", actor, item.step, text=item.text, facts=item.facts)
            elif old is not None and old.status == "quarantined" and HARM in old.facts:
                self._machine["left in quarantine"] += 1
            elif old is None:
                added.append(replace(item, id=item_id, version=1, seq=self.seq))
            elif (old.status, old.facts, old.step) != (item.status, item.facts, item.step):
                changed.append(replace(item, id=item_id, text=old.text, version=old.version + 1, seq=self.seq))
        self._store(added, changed, actor)

    def _placed(self, items: Sequence[Item], notes: Sequence[Item]) -> dict[str, tuple[Item, Item | None]]:
        """Items by the id that they have or will have, each with what is there.

        An id is a function of the first words. A note that a person reworded and let go of has others by now: the
        same thought is then found by what it says, and the first words, thought again, are a note of their own.
        """
        spoken = self._spoken(notes)
        placed: dict[str, tuple[Item, Item | None]] = {}
        known = load(self.db, self.bank, [*spoken.values(), *(item.identity(self.bank) for item in items)])
        for item in items:
            item_id = spoken.get(item.thought) or item.identity(self.bank)
            old = known.get(item_id)
            while old and item.level != "experience" and not old.settled and old.thought != item.thought:
                item_id = str(uuid.uuid5(_AGAIN, item_id))
                known |= load(self.db, self.bank, [item_id])
                old = known.get(item_id)
            placed[item_id] = (item, old)
            if item.level != "experience" and item.status == "active":
                spoken[item.thought] = item_id
        return placed

    def _spoken(self, notes: Sequence[Item]) -> dict[Thought, str]:
        """Ids of the active notes of the same scopes that machines may change, by what they say."""
        scopes = sorted({note.scope for note in notes})
        levels = {note.level for note in notes}
        query = sa.select(ITEMS.c.id, ITEMS.c.kind, ITEMS.c.scope, ITEMS.c.fingerprint).where(
            ITEMS.c.bank == self.bank,
            ITEMS.c.level.in_(levels),
            ITEMS.c.status == "active",
            ~(ITEMS.c.pinned | ITEMS.c.edited),
        )
        parts = (self.db.execute(query.where(ITEMS.c.scope.in_(part))) for part in portions(scopes))
        return {(row.kind, row.scope, row.fingerprint): row.id for rows in parts for row in rows}

    def set_status(self, items: Iterable[Item], status: Status, step: int, actor: str, **facts: str) -> None:
        """Retire or quarantine what a machine no longer believes; text and history stay.

        `facts` are added to theirs. Items that a person holds get a proposal (notes) or are left alone (attempts).
        """
        self._actor = actor
        changed = []
        for old in load(self.db, self.bank, [item.id for item in items]).values():
            if old.protected and old.level != "experience" and old.status == "active":
                self.propose(old, "retire", actor, step, reason=f"would be {status}: its evidence no longer carries it")
            elif not old.settled and old.status != status:
                known = old.facts | facts
                changed.append(replace(old, status=status, facts=known, version=old.version + 1, seq=self.seq))
        self._store([], changed, actor, step=step)

    def propose(
        self,
        item: Item,
        action: str,
        actor: str,
        step: int,
        *,
        text: str | None = None,
        facts: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> None:
        """Ask people for a change of an item that they hold.

        A proposal that is open or was rejected is not made again; one that was accepted is, as people undid it since.
        """
        name = json.dumps([self.bank, item.id, action, fingerprint(text) if text else ""])
        row = {
            "bank": self.bank,
            "id": str(uuid.uuid5(_PROPOSAL, name)),
            "item_id": item.id,
            "item_version": item.version,
            "action": action,
            "text": text,
            "facts": json.dumps(facts or {}, sort_keys=True),
            "reason": reason,
            "step": step,
            "actor": actor,
            "status": "open",
            "seq": self.seq,
            "decided_by": None,
        }
        made = (sqlite if self.db.dialect.name == "sqlite" else postgresql).insert(PROPOSALS).values(row)
        again = made.on_conflict_do_update(
            index_elements=["bank", "id"], set_=row, where=PROPOSALS.c.status == "accepted"
        )
        self._machine["proposed"] += self.db.execute(again).rowcount

    def begin_step(self, step: int) -> None:
        """Mark where a step begins: what people changed before this transaction takes effect with it."""
        here = sa.and_(STEPS.c.bank == self.bank, STEPS.c.step == step)
        if self.db.execute(sa.select(STEPS.c.step).where(here)).first():
            return
        before = self.seq - 1
        last = sa.select(sa.func.coalesce(sa.func.max(STEPS.c.seq), 0)).where(STEPS.c.bank == self.bank)
        edits = self.db.scalar(
            sa.select(sa.func.count()).where(
                AUDIT.c.bank == self.bank, BY_PERSON, AUDIT.c.seq > last.scalar_subquery(), AUDIT.c.seq <= before
            )
        )
        self.insert(STEPS, [{"bank": self.bank, "step": step, "seq": before, "edits": edits}])

    def reward(self, step: int, rewards: Mapping[str, float]) -> None:
        """Note what the contexts of a step led to, by problem."""
        here = sa.and_(USES.c.bank == self.bank, USES.c.step == step, USES.c.problem_id == sa.bindparam("problem"))
        if rewards:
            given = [{"problem": pid, "given": value} for pid, value in rewards.items()]
            self.db.execute(sa.update(USES).where(here).values(reward=sa.bindparam("given")), given)

    def _settled(self) -> list[Item]:
        rows = self.db.execute(sa.select(ITEMS).where(ITEMS.c.bank == self.bank, SETTLED))
        return [item_of(row) for row in rows]

    # ------------------------------------------------------------ what people do

    def put(self, item: Item, actor: str, action: str, **detail: Any) -> Item:
        """Write an item as a person wants it, as its next version, and log it; returns it as written."""
        old = load(self.db, self.bank, [item.id]).get(item.id)
        new = replace(item, version=old.version + 1 if old else 1, seq=self.seq)
        self._store([] if old else [new], [new] if old else [], actor)
        if old and old.text != new.text:
            here = sa.and_(ITEMS.c.bank == self.bank, ITEMS.c.id == item.id)
            self.db.execute(sa.update(ITEMS).where(here).values(text=new.text))
        self.log(actor, action, new, **detail)
        return new

    def put_new(self, items: Iterable[Item], actor: str) -> None:
        """Add items that do not exist yet; logging them is the caller's."""
        self._store([replace(item, version=1, seq=self.seq) for item in items], [], actor)

    def annotate(self, item: Item, actor: str, text: str) -> None:
        """Attach a person's remark to an item; its version stays."""
        row = {"bank": self.bank, "seq": self.seq, "item_id": item.id, "at": time.time(), "actor": actor, "text": text}
        self.insert(ANNOTATIONS, [row])
        self.log(actor, "annotate", item)

    def decide(self, proposal: str, status: str, actor: str) -> None:
        """Close a proposal."""
        here = sa.and_(PROPOSALS.c.bank == self.bank, PROPOSALS.c.id == proposal)
        self.db.execute(sa.update(PROPOSALS).where(here).values(status=status, decided_by=actor, seq=self.seq))

    def link(self, links: Iterable[tuple[str, Item, str]]) -> None:
        """Note what items were made from: (rollout or item, child, how)."""
        rows = [
            {"bank": self.bank, "parent": parent, "child": child.id, "how": how, "version": child.version}
            for parent, child, how in links
        ]
        self.insert(LINKS, rows, ignore=True)

    # ------------------------------------------------------------ what both need

    def log(self, actor: str, action: str, item: Item | None = None, **detail: Any) -> None:
        """Add a row to the audit log."""
        row = {
            "bank": self.bank,
            "seq": self.seq,
            "n": self._audited,
            "at": time.time(),
            "actor": actor,
            "by_person": by_person(actor),
            "action": action,
            "item_id": item.id if item else None,
            "version": item.version if item else None,
            "detail": json.dumps(detail, sort_keys=True),
        }
        self.insert(AUDIT, [row])
        self._audited += 1

    def close(self) -> None:
        """Log what a job did as one row: every `seq` is accounted for."""
        if self._machine or not self._audited:
            self.log(self._actor, "job", None, job=self.key, counts=dict(self._machine))

    def insert(self, table: sa.Table, rows: list[dict[str, Any]], *, ignore: bool = False) -> None:
        """Insert rows; with `ignore`, those whose key exists stay as they are."""
        if not rows:
            return
        if not ignore:
            self.db.execute(sa.insert(table), rows)
        elif self.db.dialect.name == "sqlite":
            self.db.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
        else:
            self.db.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)

    def _active_levels(self, ids: Sequence[str]) -> dict[str, int]:
        """How many of `ids` are active, by level."""
        # Counted here: asked for counts by level, SQLite walks an index of the whole bank to have its groups in order.
        query = sa.select(ITEMS.c.level, ITEMS.c.status).where(ITEMS.c.bank == self.bank)
        rows = (row for part in portions(ids) for row in self.db.execute(query.where(ITEMS.c.id.in_(part))))
        return Counter(row.level for row in rows if row.status == "active")

    def _store(self, added: list[Item], changed: list[Item], actor: str, *, step: int | None = None) -> None:
        """Rows, versions and provenance of new and changed items. `step`: of the versions, when not the items'."""
        self.insert(ITEMS, [item_row(self.bank, item) for item in added])
        self.grown.update(item.level for item in (*added, *changed) if item.status == "active")
        self.grown.subtract(self._active_levels([item.id for item in changed]))
        if changed:
            self.db.execute(_UPDATE, [{f"new_{k}": v for k, v in item_row(self.bank, i).items()} for i in changed])
        both = [*added, *changed]
        as_of = both if step is None else [replace(item, step=step) for item in both]
        self.insert(VERSIONS, [version_row(self.bank, item, actor) for item in as_of])
        made = [item for item in both if item.level != "experience"]
        by_hand = {item.id: item.facts.get("merged_from", ()) for item in made}  # a person made it of these
        sources = [(s, item) for item in made for s in item.facts.get("sources", ()) if s not in by_hand[item.id]]
        self.link([(source, item, _HOW[item.level]) for source, item in sources])
        if not by_person(actor):
            self._machine.update({"added": len(added), "changed": len(changed)})
