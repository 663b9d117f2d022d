"""What is asked of the ledger, on one connection: whoever asks several things in one transaction gets one moment."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from pmd.services.common.bank import Kind, Status
from pmd.services.common.curation import Sort
from pmd.services.common.requests import MemoryCounts
from pmd.services.common.wire import Level
from pmd.services.memory.ledger.cursor import cursor, place
from pmd.services.memory.ledger.items import Banned, Item, UnknownBank
from pmd.services.memory.ledger.judgements import Judgement, Pair, judgements
from pmd.services.memory.ledger.rows import item_at, item_of, load, portions
from pmd.services.memory.ledger.tables import (
    BANKS,
    BY_PERSON,
    ITEMS,
    PROBLEMS,
    SETTLED,
    STANDING_NOTES,
    STEPS,
    USES,
    VERSIONS,
    WORDS,
)

SORTED = 200
"""Characters that texts are sorted by."""
_WORD = re.compile(r"[^\W_]+")
_MARK = re.compile("[\u0300-\u036f]")


@dataclass(frozen=True)
class Filter:
    """Which items of a bank; None means any."""

    level: Level | None = None
    kind: Kind | None = None
    status: Status | None = None
    scope: str | None = None
    """Problem id, or topic of a behavior."""
    protected: bool | None = None
    text: str | None = None
    """Words that must all occur, in whatever case and with whatever accents; the beginnings of words suffice."""
    fingerprint: str | None = None
    """Of a text (`items.fingerprint`)."""


def seq(db: sa.Connection, bank: str) -> int:
    """The bank's `seq`; 0 for a bank that does not exist yet."""
    return int(db.scalar(sa.select(BANKS.c.seq).where(BANKS.c.bank == bank)) or 0)


def known_seq(db: sa.Connection, bank: str) -> int:
    """The bank's `seq`.

    Raises:
        UnknownBank: when nothing was ever written to it.
    """
    if now := seq(db, bank):
        return now
    raise UnknownBank(bank)


def counts(db: sa.Connection, bank: str) -> MemoryCounts:
    """Active items by level and the bank's `seq`.

    Raises:
        UnknownBank: when nothing was ever written to it.
    """
    levels = (BANKS.c.experience, BANKS.c.insight, BANKS.c.behavior)
    row = db.execute(sa.select(BANKS.c.seq, *levels).where(BANKS.c.bank == bank)).first()
    if row is None or not row.seq:
        raise UnknownBank(bank)
    return MemoryCounts(**row._mapping)


def active(db: sa.Connection, bank: str, level: Level, scopes: Sequence[str] | None = None) -> list[Item]:
    """Active items of a level, oldest first; of some problems or clusters only when `scopes` is given."""
    # What was written together stays in the order of its writing. Ids would mix it up, in each bank differently, and
    # with it which attempts are the newest that reflection shows (Law 10).
    query = sa.select(ITEMS).where(ITEMS.c.bank == bank, ITEMS.c.level == level, ITEMS.c.status == "active")
    wanted = None if scopes is None else list(dict.fromkeys(scopes))
    parts = [query] if wanted is None else [query.where(ITEMS.c.scope.in_(part)) for part in portions(wanted)]
    rows = [row for part in parts for row in db.execute(part)]
    return [item_of(row) for row in sorted(rows, key=lambda row: (row.step, row.seq, row.number))]


def changes(db: sa.Connection, bank: str, after_seq: int, limit: int) -> list[Item]:
    """See `Ledger.changes`."""
    since = sa.and_(ITEMS.c.bank == bank, ITEMS.c.seq > after_seq)
    last = sa.select(ITEMS.c.seq).where(since).order_by(ITEMS.c.seq).offset(limit - 1).limit(1)
    # No such item means that all of them fit.
    fits = ITEMS.c.seq <= sa.func.coalesce(last.scalar_subquery(), sa.literal(2**63 - 1, sa.BigInteger))
    return [
        item_of(row) for row in db.execute(sa.select(ITEMS).where(since, fits).order_by(ITEMS.c.seq, ITEMS.c.number))
    ]


def select(db: sa.Connection, bank: str, chosen: Filter) -> sa.Select[Any]:
    """The query for the items of a filter."""
    query = sa.select(ITEMS).where(ITEMS.c.bank == bank)
    for column in ("level", "kind", "status", "scope", "fingerprint"):
        if (value := getattr(chosen, column)) is not None:
            query = query.where(ITEMS.c[column] == value)
    if chosen.protected is not None:
        protected = sa.or_(ITEMS.c.pinned, ITEMS.c.edited)
        query = query.where(protected if chosen.protected else sa.not_(protected))
    if chosen.text:
        query = query.where(_matches(db, bank, chosen.text))
    return query


def _matches(db: sa.Connection, bank: str, text: str) -> sa.ColumnElement[bool]:
    words = _WORD.findall(text)
    if not words:  # nothing that an index holds: "+3", "{}"
        return ITEMS.c.text.icontains(text, autoescape=True)
    if db.dialect.name == "sqlite":
        # The bank inside the match: without it the index would be searched for the words of all banks.
        match = f'bank:"{bank}" AND ' + " AND ".join(f'text:"{word}"*' for word in words)
        found = sa.text("SELECT rowid FROM items_fts WHERE items_fts MATCH :match").bindparams(match=match)
        return ITEMS.c.number.in_(found)
    plain = _MARK.sub("", unicodedata.normalize("NFD", text))
    query = sa.func.to_tsquery(sa.literal_column("'simple'"), " & ".join(f"{word}:*" for word in _WORD.findall(plain)))
    return WORDS.bool_op("@@")(query)


def page(
    db: sa.Connection, bank: str, chosen: Filter, *, sort: Sort = "newest", after: str = "", limit: int = 50
) -> tuple[list[Item], str | None]:
    """Items and the cursor of the next page, if there is one.

    Raises:
        BadCursor: when `after` is no cursor of this order.
    """
    query = select(db, bank, chosen)
    # By its beginning: a cursor that held a text of 8,000 characters would fit into no address.
    column: sa.ColumnElement[Any] = sa.func.substr(ITEMS.c.text, 1, SORTED) if sort == "text" else ITEMS.c.seq
    query = query.add_columns(column.label("place"))
    newest = sort == "newest"
    if after:
        value, item_id = place(after, str if sort == "text" else int, str)
        past = column < value if newest else column > value
        further = ITEMS.c.id < item_id if newest else ITEMS.c.id > item_id
        query = query.where(sa.or_(past, sa.and_(column == value, further)))
    order = (column.desc(), ITEMS.c.id.desc()) if newest else (column, ITEMS.c.id)
    rows = db.execute(query.order_by(*order).limit(limit + 1)).all()
    items = [item_of(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return items, None
    # The place as the database sees it: of a text with a NUL, SQLite compares what is before it.
    return items, cursor(rows[limit - 1].place, items[-1].id)


def problems(db: sa.Connection, bank: str, ids: Sequence[str] | None = None) -> dict[str, str]:
    """Bodies (JSON) of the problems that the bank has experience of, by id; of some only when `ids` is given."""
    query = sa.select(PROBLEMS.c.problem_id, PROBLEMS.c.body).where(PROBLEMS.c.bank == bank)
    query = query.order_by(PROBLEMS.c.problem_id)
    parts = [query] if ids is None else [query.where(PROBLEMS.c.problem_id.in_(part)) for part in portions(ids)]
    return {row.problem_id: row.body for part in parts for row in db.execute(part)}


def problems_since(db: sa.Connection, bank: str, after_seq: int) -> list[tuple[str, int, str]]:
    """The problems that came after a `seq`, each with the `seq` that it came with and its body, in order of both."""
    here = sa.and_(PROBLEMS.c.bank == bank, PROBLEMS.c.seq > after_seq)
    query = sa.select(PROBLEMS.c.problem_id, PROBLEMS.c.seq, PROBLEMS.c.body).where(here)
    return [tuple(row) for row in db.execute(query.order_by(PROBLEMS.c.seq, PROBLEMS.c.problem_id))]


def problem_ids(db: sa.Connection, bank: str) -> list[str]:
    """The problems that the bank has experience of."""
    query = sa.select(PROBLEMS.c.problem_id).where(PROBLEMS.c.bank == bank).order_by(PROBLEMS.c.problem_id)
    return list(db.scalars(query))


def shown(db: sa.Connection, bank: str, ids: Sequence[str]) -> dict[str, Any]:
    """Of the active items among `ids`, by id, the row of what a search shows: id, version, level, kind, scope, text."""
    columns = (ITEMS.c.id, ITEMS.c.version, ITEMS.c.level, ITEMS.c.kind, ITEMS.c.scope, ITEMS.c.text)
    query = sa.select(*columns).where(ITEMS.c.bank == bank, ITEMS.c.status == "active")
    return {row[0]: row for part in portions(ids) for row in db.execute(query.where(ITEMS.c.id.in_(part)))}


class Trials(NamedTuple):
    """What followed an item at a problem, where it was shown or where it was held out."""

    item_id: str
    problem_id: str
    shown: bool
    trials: int
    rewards: float
    """Their sum."""
    base_trials: int
    base_rewards: float
    """Of attempts without memory at the same problem in the same steps: the sum of their means."""


def trials(db: sa.Connection, bank: str, item_ids: Sequence[str]) -> list[Trials]:
    """The trials of some items, those whose reward is not known yet left out."""
    at = (USES.c.item_id, USES.c.problem_id, USES.c.shown)
    query = (
        sa.select(
            *at,
            sa.func.count(USES.c.reward),
            sa.func.sum(USES.c.reward),
            sa.func.count(USES.c.base),
            sa.func.coalesce(sa.func.sum(USES.c.base), 0.0),
        )
        .where(USES.c.bank == bank, USES.c.reward.is_not(None))
        .group_by(*at)
    )
    parts = portions(item_ids)
    return [Trials(*row) for part in parts for row in db.execute(query.where(USES.c.item_id.in_(part)))]


def standing_notes(db: sa.Connection, bank: str) -> int:
    """How many active insights and behaviors a bank has."""
    return int(db.scalar(sa.select(BANKS.c.insight + BANKS.c.behavior).where(BANKS.c.bank == bank)) or 0)


def tried(db: sa.Connection, bank: str, step: int) -> list[str]:
    """The items whose trials in a step have their reward."""
    here = sa.and_(USES.c.bank == bank, USES.c.step == step, USES.c.reward.is_not(None))
    return list(db.scalars(sa.select(USES.c.item_id).where(here).distinct().order_by(USES.c.item_id)))


def unconfirmed(db: sa.Connection, bank: str, before: int) -> list[Item]:
    """Active notes that no person holds and no step from `before` on has confirmed."""
    here = sa.and_(ITEMS.c.bank == bank, STANDING_NOTES, ~(ITEMS.c.pinned | ITEMS.c.edited), ITEMS.c.step < before)
    return [item_of(row) for row in db.execute(sa.select(ITEMS).where(here))]


def least_confirmed(db: sa.Connection, bank: str, count: int) -> list[Item]:
    """At least `count` active notes that no person holds, those confirmed longest ago first: all of a step or none."""
    free = sa.and_(ITEMS.c.bank == bank, STANDING_NOTES, ~(ITEMS.c.pinned | ITEMS.c.edited))
    last = db.scalar(sa.select(ITEMS.c.step).where(free).order_by(ITEMS.c.step).offset(count - 1).limit(1))
    query = sa.select(ITEMS).where(free)
    return [item_of(row) for row in db.execute(query if last is None else query.where(ITEMS.c.step <= last))]


def history(db: sa.Connection, bank: str, item_id: str) -> list[tuple[Item, str]]:
    """All versions of an item, oldest first, each with who made it; empty when there is no such item."""
    now = load(db, bank, [item_id]).get(item_id)
    if now is None:
        return []
    query = sa.select(VERSIONS).where(VERSIONS.c.bank == bank, VERSIONS.c.id == item_id).order_by(VERSIONS.c.version)
    return [(item_at(now, row), row.actor) for row in db.execute(query)]


def at(db: sa.Connection, bank: str, seq_: int) -> list[Item]:
    """Every item as it was at a `seq`, oldest first."""
    newest = (
        sa.select(VERSIONS.c.id, sa.func.max(VERSIONS.c.version).label("version"))
        .where(VERSIONS.c.bank == bank, VERSIONS.c.seq <= seq_)
        .group_by(VERSIONS.c.id)
        .subquery()
    )
    then = {
        row.id: row
        for row in db.execute(
            sa.select(VERSIONS)
            .join(newest, sa.and_(VERSIONS.c.id == newest.c.id, VERSIONS.c.version == newest.c.version))
            .where(VERSIONS.c.bank == bank)
        )
    }
    now = (item_of(row) for row in db.execute(sa.select(ITEMS).where(ITEMS.c.bank == bank)))
    found = [item_at(item, then[item.id]) for item in now if item.id in then]
    return sorted(found, key=_age)


def at_page(db: sa.Connection, bank: str, seq_: int, after: int, limit: int) -> tuple[list[Item], int | None]:
    """Items as they were at a `seq`, in the order in which they came: a page, and where the next one goes on.

    Args:
        after: 0, or where the page before said to go on.
        limit: items that are looked at; those that did not exist yet are left out.
    """
    query = sa.select(ITEMS).where(ITEMS.c.bank == bank, ITEMS.c.number > after).order_by(ITEMS.c.number).limit(limit)
    rows = db.execute(query).all()
    old = sa.and_(VERSIONS.c.bank == bank, VERSIONS.c.id.in_([row.id for row in rows]), VERSIONS.c.seq <= seq_)
    newest = (
        sa.select(VERSIONS.c.id, sa.func.max(VERSIONS.c.version).label("version")).where(old).group_by(VERSIONS.c.id)
    )
    last = newest.subquery()
    here = sa.and_(VERSIONS.c.bank == bank, VERSIONS.c.id == last.c.id, VERSIONS.c.version == last.c.version)
    then = {row.id: row for row in db.execute(sa.select(VERSIONS).join(last, here))}
    items = [item_at(item_of(row), then[row.id]) for row in rows if row.id in then]
    return items, rows[-1].number if len(rows) == limit else None


def changed_ids(
    db: sa.Connection, bank: str, since: int, until: int, levels: Sequence[Level], after: str, limit: int
) -> list[str]:
    """Ids of items of some levels that got a version after `since` and up to `until`, in their order.

    Args:
        after: only ids behind this one.
    """
    here = sa.and_(VERSIONS.c.bank == bank, VERSIONS.c.seq > since, VERSIONS.c.seq <= until, VERSIONS.c.id > after)
    of_item = sa.and_(ITEMS.c.bank == VERSIONS.c.bank, ITEMS.c.id == VERSIONS.c.id)
    query = sa.select(VERSIONS.c.id).join(ITEMS, of_item).where(here, ITEMS.c.level.in_(levels)).distinct()
    return list(db.scalars(query.order_by(VERSIONS.c.id).limit(limit)))


def at_seq(db: sa.Connection, bank: str, seq_: int, ids: Sequence[str]) -> dict[str, Item]:
    """Some items as they were at a `seq`, by id; those that did not exist yet are left out."""
    now = load(db, bank, ids)
    then: dict[str, Item] = {}
    for part in portions(ids):
        old = sa.and_(VERSIONS.c.bank == bank, VERSIONS.c.id.in_(part), VERSIONS.c.seq <= seq_)
        newest = sa.select(VERSIONS.c.id, sa.func.max(VERSIONS.c.version).label("version")).where(old)
        last = newest.group_by(VERSIONS.c.id).subquery()
        here = sa.and_(VERSIONS.c.bank == bank, VERSIONS.c.id == last.c.id, VERSIONS.c.version == last.c.version)
        then |= {row.id: item_at(now[row.id], row) for row in db.execute(sa.select(VERSIONS).join(last, here))}
    return then


def written_at(db: sa.Connection, bank: str, seq_: int) -> dict[str, Item]:
    """The items that one transaction wrote, as it left them, by id."""
    query = sa.select(VERSIONS.c.id).where(VERSIONS.c.bank == bank, VERSIONS.c.seq == seq_).order_by(VERSIONS.c.id)
    return at_seq(db, bank, seq_, list(db.scalars(query)))


def _age(item: Item) -> tuple[int, int, str]:
    return (item.step, item.seq, item.id)


class StepView:
    """A bank as a step sees it: what people changed since the step began is read as it was before.

    One moment of the ledger: every read goes through the connection that it was made with.
    """

    def __init__(self, db: sa.Connection, bank: str, step: int) -> None:
        self._db = db
        self._bank = bank
        self.seq = seq(db, bank)
        began = db.scalar(sa.select(STEPS.c.seq).where(STEPS.c.bank == bank, STEPS.c.step == step))
        self._before = {} if began is None else self._changed_since(began)
        """By id, what people changed since; None: it did not exist."""
        self.put_away = self._banned()
        """Items that people have banned."""
        self.banned = Banned(item.text for item in self.put_away)
        """Texts that are never shown."""

    def active(self, level: Level, scopes: Sequence[str] | None = None) -> list[Item]:
        """Active items of a level, oldest first; of some problems or clusters only when `scopes` is given."""
        found = active(self._db, self._bank, level, scopes)
        if not self._before:
            return found
        wanted: Callable[[Item], bool] = lambda i: (  # noqa: E731
            i.status == "active" and i.level == level and (scopes is None or i.scope in scopes)
        )
        then = [old for old in self._before.values() if old is not None and wanted(old)]
        return sorted([i for i in found if i.id not in self._before] + then, key=_age)

    def by_people(self, level: Level) -> list[Item]:
        """Active items of a level that a person stands behind, or has changed since the step began, oldest first."""
        query = sa.select(ITEMS).where(ITEMS.c.bank == self._bank, SETTLED, ITEMS.c.level == level)
        now = [item_of(row) for row in self._db.execute(query) if row.id not in self._before]
        then = [old for old in self._before.values() if old is not None and old.level == level]
        return sorted((i for i in (*now, *then) if i.status == "active"), key=_age)

    def among(self, level: Level, ids: Sequence[str]) -> dict[str, Item]:
        """The active items of a level that have one of `ids`, by id."""
        now = load(self._db, self._bank, [i for i in ids if i not in self._before])
        then = {i: old for i in ids if (old := self._before.get(i)) is not None}
        return {i: item for i, item in (now | then).items() if item.status == "active" and item.level == level}

    def trials(self, item_ids: Sequence[str]) -> list[Trials]:
        """What followed some items."""
        return trials(self._db, self._bank, item_ids)

    def judgements(self, texts: Sequence[str]) -> dict[Pair, Judgement]:
        """What a model said of the pairs among some texts."""
        return judgements(self._db, self._bank, texts)

    def _changed_since(self, began: int) -> dict[str, Item | None]:
        query = (
            sa.select(VERSIONS.c.id, sa.func.min(VERSIONS.c.version))
            .where(VERSIONS.c.bank == self._bank, BY_PERSON, VERSIONS.c.seq > began)
            .group_by(VERSIONS.c.id)
        )
        first: dict[str, int] = {row[0]: row[1] for row in self._db.execute(query)}
        if not first:
            return {}
        now = load(self._db, self._bank, list(first))
        before: dict[str, Item | None] = {}
        for item_id, version in first.items():
            row = self._db.execute(
                sa.select(VERSIONS).where(
                    VERSIONS.c.bank == self._bank, VERSIONS.c.id == item_id, VERSIONS.c.version == version - 1
                )
            ).first()
            before[item_id] = item_at(now[item_id], row) if row else None
        return before

    def _banned(self) -> list[Item]:
        query = sa.select(ITEMS).where(ITEMS.c.bank == self._bank, SETTLED, ITEMS.c.status == "banned")
        now = [item_of(row) for row in self._db.execute(query) if row.id not in self._before]
        return now + [i for i in self._before.values() if i is not None and i.status == "banned"]
