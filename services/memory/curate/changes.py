"""What a person can do to a bank. Each function is one change inside a transaction.

Invariants: a change names the version that the person saw and is refused when the item has moved on; attempts are
evidence, so their text is nobody's to edit; two active notes never say the same about the same; a banned text does
not come back by another door.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from pmd.services.common.bank import Action, ItemRef
from pmd.services.common.curation import Edit, Merge, NewItem, Split
from pmd.services.common.options import MAX_NOTE_CHARS
from pmd.services.memory.ledger import Banned, Item, Transaction, fingerprint, reads
from pmd.services.memory.ledger.items import Thought
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import ITEMS, PROBLEMS, PROPOSALS, SETTLED

Versions = frozenset[int] | None
"""Versions that the person accepts to change; None: whichever it is (`If-Match: *`)."""


class Missing(LookupError):
    """There is no such item, version or proposal."""


class Stale(RuntimeError):
    """An item is not at the version that the person saw."""

    def __init__(self, current: Item) -> None:
        super().__init__(f"item {current.id} is at version {current.version} by now; look at it and try again")
        self.current = current


class Conflict(RuntimeError):
    """The bank's state forbids it; the message says what to do first."""


class Invalid(ValueError):
    """A field of the request is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def current(tx: Transaction, item_id: str, versions: Versions) -> Item:
    """The item at the version that the person saw.

    Raises:
        Missing: when there is none.
        Stale: when it has another version.
    """
    return _at(tx.bank, load(tx.db, tx.bank, [item_id]).get(item_id), item_id, versions)


def _at(bank: str, item: Item | None, item_id: str, versions: Versions) -> Item:
    if item is None:
        raise Missing(f"no item {item_id!r} in bank {bank!r}")
    if versions is not None and item.version not in versions:
        raise Stale(item)
    return item


def _note(item: Item) -> Item:
    if item.level == "experience":
        raise Conflict(f"item {item.id} is an attempt: evidence can be pinned or banned, its text can't be changed")
    if item.status != "active":
        raise Conflict(f"item {item.id} is {item.status}; restore it first")
    return item


class Said:
    """What a bank's other notes leave to be said."""

    def __init__(self, db: sa.Connection, bank: str, but: Collection[str] = ()) -> None:
        """Read what is banned; the items of `but` do not count."""
        self._db = db
        self._bank = bank
        self._but = frozenset(but)
        banned = sa.select(ITEMS.c.id, ITEMS.c.text).where(ITEMS.c.bank == bank, SETTLED, ITEMS.c.status == "banned")
        self._bans = {row.id: row.text for row in db.execute(banned) if row.id not in self._but}
        self._banned = Banned(self._bans.values())

    def objection(self, note: Item) -> str:
        """Why a note can't be active: its text is banned, or another one says it of the same; empty: it can."""
        if note.text in self._banned:
            ban = next(i for i, text in self._bans.items() if note.text in Banned([text]))
            return f"this text is banned by item {ban}; restore that one first, or both in one bulk request"
        alike = sa.and_(ITEMS.c.level == note.level, ITEMS.c.status == "active", ITEMS.c.scope == note.scope)
        same = sa.and_(ITEMS.c.kind == note.kind, ITEMS.c.fingerprint == fingerprint(note.text))
        twins = self._db.scalars(sa.select(ITEMS.c.id).where(ITEMS.c.bank == self._bank, alike, same))
        twin = next((i for i in twins if i not in self._but), None)
        return f"item {twin} says the same already; edit or merge it" if twin else ""


def _free(tx: Transaction, note: Item, but: Sequence[str] = ()) -> None:
    """Refuse a text that is banned, or that an active note says of the same already; items of `but` do not count."""
    if objection := Said(tx.db, tx.bank, but).objection(note):
        raise Conflict(objection)


def _new(tx: Transaction, item: Item, actor: str, action: str, **detail: object) -> Item:
    """Add a note by hand under an id of its own."""
    known = load(tx.db, tx.bank, [item.identity(tx.bank)])
    item_id = item.identity(tx.bank)
    if item_id in known:  # the machine once wrote these words; what became of that item stays as it is
        item_id = str(uuid.uuid5(uuid.UUID(item_id), str(tx.seq)))
    return tx.put(replace(item, id=item_id, edited=True), actor, action, **detail)


BY_HAND = "by hand"
"""Scope of behaviors that people wrote about no topic."""


def add(tx: Transaction, new: NewItem, actor: str) -> Item:
    """Add a note by hand."""
    if new.level == "insight":
        if new.kind not in {"strategy", "lesson"}:
            raise Invalid("kind", "an insight is a strategy or a lesson")
        here = sa.select(PROBLEMS.c.body).where(
            PROBLEMS.c.bank == tx.bank, PROBLEMS.c.problem_id == (new.problem_id or "")
        )
        if tx.db.scalar(here) is None:
            raise Invalid("problem_id", "an insight belongs to a training problem that the bank has attempts of")
        scope, facts = str(new.problem_id), {"sources": [], "passes": 0, "trials": 0}
    else:
        if new.kind not in {None, "behavior"} or new.problem_id is not None:
            raise Invalid("problem_id", "a behavior is about no single problem: leave out problem_id and kind")
        topic = new.topic.strip().lower()
        scope, facts = topic or BY_HAND, {"topic": topic, "support": 0, "members": 0, "sources": []}
    item = Item(
        level=new.level,
        kind=new.kind or "behavior",
        scope=scope,
        text=new.text,
        step=newest_step(tx),
        policy_version=0,
        facts=facts,
        pinned=new.pinned,
    )
    _free(tx, item)
    return _new(tx, item, actor, "add")


def newest_step(tx: Transaction) -> int:
    """The newest step that wrote to the bank."""
    return int(tx.db.scalar(sa.select(sa.func.max(ITEMS.c.step)).where(ITEMS.c.bank == tx.bank)) or 0)


def edit(tx: Transaction, item_id: str, versions: Versions, change: Edit, actor: str) -> Item:
    """Reword a note, or turn a strategy into a lesson; `change.also` along with it, all of them or none."""
    first = current(tx, item_id, versions)
    others = seen(tx.db, tx.bank, change.also)
    items = [_note(item) for item in (first, *others)]
    if len({item.id for item in items}) < len(items):
        raise Invalid("also", "names the note that is edited")
    if any(item.level != first.level for item in items):
        raise Invalid("also", f"only notes of level {first.level} can be changed along with this one")
    if change.kind is not None and first.level != "insight":
        raise Invalid("kind", "only an insight is a strategy or a lesson")
    new = [replace(i, text=change.text or i.text, kind=change.kind or i.kind, edited=True) for i in items]
    if len({item.thought for item in new}) < len(new):
        raise Invalid("also", "two of the notes are about the same: merge them instead")
    said = Said(tx.db, tx.bank, but=[item.id for item in items])
    for item in new:
        if objection := said.objection(item):
            raise Conflict(objection)
    done = [tx.put(item, actor, "edit") for item in new]
    return done[0]


def act(
    tx: Transaction,
    item_id: str,
    versions: Versions,
    action: Action,
    actor: str,
    reason: str = "",
) -> Item:
    """Pin, unpin, ban or restore an item. Unpin gives it back to the machine, edited or not."""
    item = current(tx, item_id, versions)
    new = _after(item, action)
    if action == "restore" and item.level != "experience":
        _free(tx, item, but=[item.id])
    return _act(tx, new, action, actor, reason)


def _act(tx: Transaction, new: Item, action: Action, actor: str, reason: str) -> Item:
    return tx.put(new, actor, action, **({"reason": reason} if reason else {}))


def _after(item: Item, action: Action) -> Item:
    match action:
        case "pin":
            if item.status != "active":
                raise Conflict(f"item {item.id} is {item.status}; restore it first")
            return replace(item, pinned=True)
        case "unpin":
            return replace(item, pinned=False, edited=False)
        case "ban":
            return replace(item, status="banned")
        case "restore":
            if item.level != "experience" and len(item.text) > MAX_NOTE_CHARS:
                raise Conflict(f"item {item.id} has {len(item.text)} characters, a note at most {MAX_NOTE_CHARS}")
            return replace(item, status="active", edited=True)


@dataclass
class Plan:
    """What one action on many items would do."""

    changes: list[Item] = field(default_factory=list)
    """Items as they would be, but for their version."""
    unchanged: int = 0
    """Items that are so already."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why it can't be done, by item."""


def plan(db: sa.Connection, bank: str, items: Sequence[Item], action: Action) -> Plan:
    """See what an action on `items` would do; nothing is written."""
    found = Plan()
    for item in items:
        try:
            new = _after(item, action)
        except Conflict as conflict:
            found.refused[item.id] = str(conflict)
        else:
            if new == item:
                found.unchanged += 1
            else:
                found.changes.append(new)
    if action == "restore":
        _restore_together(db, bank, found, {item.id: item for item in items})
    return found


def _restore_together(db: sa.Connection, bank: str, found: Plan, was: dict[str, Item]) -> None:
    """Take out of a plan what can't be active again.

    Of two that are banned for one text neither could be the first: a ban that is lifted along with it does not count,
    and when both say it of the same, one is active and the other retired.
    """
    while True:
        said = Said(db, bank, but=[item.id for item in found.changes])
        notes = [item for item in found.changes if item.level != "experience"]
        refused = {note.id: why for note in notes if (why := said.objection(note))}
        if not refused:
            break
        found.refused |= refused  # they stay banned, which others may fall over
        found.changes = [item for item in found.changes if item.id not in refused]
    first: dict[Thought, str] = {}
    changes = []
    for item in sorted(found.changes, key=lambda i: was[i.id].status != "active"):
        twin = item.level != "experience" and first.setdefault(item.thought, item.id) != item.id
        new = replace(item, status="retired", pinned=False, edited=False) if twin else item
        if new == was[item.id]:
            found.unchanged += 1
        else:
            changes.append(new)
    found.changes = changes


def bulk(tx: Transaction, refs: Sequence[ItemRef], action: Action, actor: str, reason: str) -> tuple[list[Item], int]:
    """One action on items, all of them or none; the items as written, and how many were already so."""
    found = plan(tx.db, tx.bank, seen(tx.db, tx.bank, refs), action)
    for item_id, why in found.refused.items():
        raise Conflict(f"{item_id}: {why}")
    done = [_act(tx, item, action, actor, reason) for item in found.changes]
    if not done:
        tx.log(actor, action, unchanged=found.unchanged)
    return done, found.unchanged


def seen(db: sa.Connection, bank: str, refs: Sequence[ItemRef]) -> list[Item]:
    """The items at the versions that a person saw.

    Raises:
        Missing, Stale: as `current`.
        Invalid: when one is named twice.
    """
    if len({ref.id for ref in refs}) < len(refs):
        raise Invalid("items", "an item is named twice")
    there = load(db, bank, [ref.id for ref in refs])
    return [_at(bank, there.get(ref.id), ref.id, frozenset({ref.version})) for ref in refs]


def merge(tx: Transaction, asked: Merge, actor: str) -> Item:
    """Several notes become one."""
    items = [_note(item) for item in seen(tx.db, tx.bank, asked.items)]
    first = items[0]
    if any((i.level, i.kind) != (first.level, first.kind) for i in items):
        raise Invalid("items", "only notes of one kind can be merged")
    if first.level == "insight" and any(i.scope != first.scope for i in items):
        return _generalise(tx, items, asked, actor)
    if asked.topic:
        raise Invalid("topic", "only insights of different problems become a behavior, which has a topic")
    _free(tx, replace(first, text=asked.text), but=[i.id for i in items])
    sources = list(dict.fromkeys(s for i in items for s in i.facts.get("sources", ())))
    merged = replace(
        max(items, key=lambda i: i.facts.get("support", 0)),
        text=asked.text,
        status="active",
        pinned=any(i.pinned for i in items),
        step=max(i.step for i in items),
    )
    facts = _made_of(merged, sources=sources, merged_from=[i.id for i in items])
    merged = replace(merged, facts=facts)
    return _replace_by(tx, items, [merged], actor, "merge")[0]


def _generalise(tx: Transaction, items: Sequence[Item], asked: Merge, actor: str) -> Item:
    """Insights of different problems become a behavior that stays these problems' business."""
    problems = sorted({item.scope for item in items})
    topic = asked.topic.strip().lower()
    rule = Item(
        level="behavior",
        kind="behavior",
        scope=topic or BY_HAND,
        text=asked.text,
        step=max(item.step for item in items),
        policy_version=max(item.policy_version for item in items),
        pinned=any(item.pinned for item in items),
        facts={
            "topic": topic,
            "support": len(problems),
            "members": len(problems),
            "problems": problems,
            "sources": [item.id for item in items],
            "merged_from": [item.id for item in items],
        },
    )
    _free(tx, rule, but=[item.id for item in items])
    return _replace_by(tx, items, [rule], actor, "merge")[0]


def split(tx: Transaction, item_id: str, versions: Versions, asked: Split, actor: str) -> list[Item]:
    """One note becomes several."""
    item = _note(current(tx, item_id, versions))
    if len({fingerprint(text) for text in asked.texts}) < len(asked.texts):
        raise Invalid("texts", "two of them say the same")
    for text in asked.texts:
        _free(tx, replace(item, text=text), but=[item.id])
    facts = _made_of(item, split_from=item.id)
    parts = [replace(item, text=text, status="active", facts=facts) for text in asked.texts]
    return _replace_by(tx, [item], parts, actor, "split")


def _made_of(item: Item, **of: object) -> dict[str, object]:
    """The facts of an item that is made of others: not what those were made of."""
    return {name: value for name, value in item.facts.items() if name not in {"merged_from", "split_from"}} | of


def _replace_by(tx: Transaction, old: Sequence[Item], new: Sequence[Item], actor: str, action: str) -> list[Item]:
    for item in old:
        tx.put(replace(item, status="superseded"), actor, action)
    made = [_new(tx, item, actor, action, of=[i.id for i in old]) for item in new]
    tx.link([(parent.id, child, action) for parent in old for child in made])
    return made


def revert(tx: Transaction, item_id: str, versions: Versions, version: int, actor: str) -> Item:
    """Bring back what a note said at an earlier version."""
    item = _note(current(tx, item_id, versions))
    then = next((v for v, _ in reads.history(tx.db, tx.bank, item_id) if v.version == version), None)
    if then is None:
        raise Invalid("version", f"item {item_id} has versions 1 to {item.version}, not {version}")
    new = replace(item, text=then.text, kind=then.kind, edited=True)
    _free(tx, new, but=[item.id])
    return tx.put(new, actor, "revert", to=version)


def accept(tx: Transaction, proposal_id: str, versions: Versions, actor: str) -> Item:
    """Do what a machine proposes."""
    proposal = _open(tx, proposal_id)
    item = current(tx, proposal.item_id, versions)
    if item.status != "active":
        raise Conflict(f"item {item.id} is {item.status}: there is nothing to {proposal.action}; reject the proposal")
    if proposal.action == "replace":
        evidence, step = item.facts | json.loads(proposal.facts), max(item.step, proposal.step)
        new = replace(item, text=proposal.text, edited=True, facts=evidence, step=step)
        _free(tx, new, but=[item.id])
    else:
        new = replace(item, status="retired", pinned=False, edited=False)
    tx.decide(proposal_id, "accepted", actor)
    return tx.put(new, actor, "accept", proposal=proposal_id)


def reject(tx: Transaction, proposal_id: str, actor: str) -> None:
    """Decline a proposal; the machine does not make it again."""
    proposal = _open(tx, proposal_id)
    tx.decide(proposal_id, "rejected", actor)
    tx.log(actor, "reject", load(tx.db, tx.bank, [proposal.item_id])[proposal.item_id], proposal=proposal_id)


def _open(tx: Transaction, proposal_id: str) -> sa.Row[tuple[object, ...]]:
    here = sa.and_(PROPOSALS.c.bank == tx.bank, PROPOSALS.c.id == proposal_id)
    row = tx.db.execute(sa.select(PROPOSALS).where(here)).first()
    if row is None:
        raise Missing(f"no proposal {proposal_id!r} in bank {tx.bank!r}")
    if row.status != "open":
        raise Conflict(f"proposal {proposal_id} is {row.status} already")
    return row


def rollback(tx: Transaction, seq: int, actor: str) -> tuple[int, int]:
    """Bring every item back to what it was at `seq`; how many were changed, and how many did not exist then.

    What was banned since stays banned: only `restore` brings a banned text back. A note that said it then is retired.
    """
    if seq >= tx.seq:
        raise Invalid("seq", f"the bank is at seq {tx.seq - 1}; {seq} is not in its past")
    then = {item.id: item for item in reads.at(tx.db, tx.bank, seq)}
    today = reads.at(tx.db, tx.bank, tx.seq)
    banned = Banned(item.text for item in today if item.status == "banned")
    changed = retired = 0
    for now in today:
        old = then.get(now.id)
        if now.status == "banned":
            continue
        if old is not None and _returns(old, now) and old.text in banned:
            old = replace(old, status="retired", pinned=False, edited=False)
        if old is None and now.status == "active":
            tx.put(replace(now, status="retired", pinned=False, edited=False), actor, "rollback", to=seq)
            retired += 1
        elif old is not None and replace(old, version=now.version, seq=now.seq, step=now.step) != now:
            tx.put(replace(old, step=now.step), actor, "rollback", to=seq)
            changed += 1
    if not changed + retired:
        tx.log(actor, "rollback", to=seq)
    return changed, retired


def _returns(old: Item, now: Item) -> bool:
    """Whether going back to `old` makes a note say what it does not say `now`."""
    return old.level != "experience" and old.status == "active" and (now.status, now.text) != ("active", old.text)
