"""Items and their versions as rows, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa

from pmd.services.memory.ledger.items import Item, by_person, fingerprint
from pmd.services.memory.ledger.tables import ITEMS, VERSIONS

T = TypeVar("T")

PORTION = 400
"""Values in one `IN`: below what every database takes."""


def portions(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """`values` in parts of at most `PORTION`."""
    for start in range(0, len(values), PORTION):
        yield values[start : start + PORTION]


def item_of(row: Any) -> Item:
    """An item from its row."""
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
        pinned=bool(row.pinned),
        edited=bool(row.edited),
    )


def item_row(bank: str, item: Item) -> dict[str, Any]:
    """The row of an item."""
    return {
        "bank": bank,
        "id": item.id,
        "level": item.level,
        "kind": item.kind,
        "scope": item.scope,
        "text": item.text,
        "fingerprint": fingerprint(item.text),
        "status": item.status,
        "pinned": item.pinned,
        "edited": item.edited,
        "version": item.version,
        "seq": item.seq,
        "step": item.step,
        "policy_version": item.policy_version,
        "facts": json.dumps(item.facts, sort_keys=True),
    }


def version_row(bank: str, item: Item, actor: str) -> dict[str, Any]:
    """The row of an item's version."""
    row = item_row(bank, item)
    attempt = item.level == "experience"
    return {column.name: row[column.name] for column in VERSIONS.c if column.name in row} | {
        "text": None if attempt else row["text"],
        "facts": None if attempt else row["facts"],
        "actor": actor,
        "by_person": by_person(actor),
    }


def item_at(now: Item, version: Any) -> Item:
    """What `now` was at one of its versions (a row of `versions`)."""
    return replace(
        now,
        kind=version.kind,
        text=now.text if version.text is None else version.text,
        facts=now.facts if version.facts is None else json.loads(version.facts),
        status=version.status,
        pinned=bool(version.pinned),
        edited=bool(version.edited),
        version=version.version,
        seq=version.seq,
        step=version.step,
        policy_version=version.policy_version,
    )


def load(db: sa.Connection, bank: str, ids: Sequence[str]) -> dict[str, Item]:
    """The items of `ids` that exist, by id."""
    found: dict[str, Item] = {}
    for part in portions(ids):
        rows = db.execute(sa.select(ITEMS).where(ITEMS.c.bank == bank, ITEMS.c.id.in_(part)))
        found |= {row.id: item_of(row) for row in rows}
    return found
