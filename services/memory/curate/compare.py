"""Two banks compared by what their active notes say about what. Ids can't tell: they are a function of the bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from pmd.services.common.bank import Status
from pmd.services.common.wire import Level
from pmd.services.memory.ledger import Item
from pmd.services.memory.ledger.cursor import cursor, place
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import ITEMS

Thought = tuple[str, str, str]
"""Kind, problem and fingerprint. Of a behavior without the cluster, whose name is a matter of the bank."""

HERE, THERE = "here", "there"
"""In cursors, which go by them: the bank's own come first."""


class Standing(NamedTuple):
    """How a thought stands in a bank."""

    status: Status
    id: str


class Side(NamedTuple):
    """A thought that is active on one side alone."""

    here: bool
    item: Item
    elsewhere: Status | None


class Compared(NamedTuple):
    """Two banks side by side."""

    common: int
    only_here: int
    only_there: int
    sides: list[Side]
    """A page of them, in the order of kind, problem and fingerprint, the bank's own first."""
    next: str | None
    """Cursor of the page after it, if there is one."""


def compare(
    db: sa.Connection, bank: str, other: str, levels: Sequence[Level], after: str = "", limit: int = 100
) -> Compared:
    """What one of two banks holds to be true and the other does not.

    Raises:
        BadCursor: when `after` is no cursor of this list.
    """
    behind = place(after, str, str, str, str) if after else ()
    mine, theirs = _standing(db, bank, levels), _standing(db, other, levels)
    here, there = _active(mine), _active(theirs)
    only_here, only_there = sorted(here - there), sorted(there - here)
    sides = [(HERE, t) for t in only_here] + [(THERE, t) for t in only_there]
    further = [(side, t) for side, t in sides if (side, *t) > behind]
    page = further[:limit]
    items = load(db, bank, [mine[t].id for side, t in page if side == HERE])
    items |= load(db, other, [theirs[t].id for side, t in page if side == THERE])
    shown = []
    for side, thought in page:
        ours = side == HERE
        home, away = (mine, theirs) if ours else (theirs, mine)
        shown.append(Side(ours, items[home[thought].id], away[thought].status if thought in away else None))
    following = cursor(page[-1][0], *page[-1][1]) if len(further) > limit else None
    return Compared(len(here & there), len(only_here), len(only_there), shown, following)


def _standing(db: sa.Connection, bank: str, levels: Sequence[Level]) -> dict[Thought, Standing]:
    """All thoughts of a bank; of several notes that say the same the active one counts, else the newest."""
    columns = (ITEMS.c.kind, ITEMS.c.scope, ITEMS.c.fingerprint, ITEMS.c.status, ITEMS.c.id)
    query = sa.select(*columns).where(ITEMS.c.bank == bank, ITEMS.c.level.in_(levels)).order_by(ITEMS.c.seq, ITEMS.c.id)
    found: dict[Thought, Standing] = {}
    for kind, scope, fingerprint, status, item_id in db.execute(query):
        thought = (kind, "" if kind == "behavior" else scope, fingerprint)
        if thought not in found or found[thought].status != "active":
            found[thought] = Standing(status, item_id)
    return found


def _active(standing: Mapping[Thought, Standing]) -> set[Thought]:
    return {thought for thought, stands in standing.items() if stands.status == "active"}
