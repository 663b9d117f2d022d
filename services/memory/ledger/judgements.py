"""What a model said of pairs of notes: whether one of the two is enough.

Invariant: an answer belongs to two texts, as `fingerprint` knows them, in either order. A note that is reworded is
asked about anew; the same two notes at another problem, or reverted to, are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from pmd.services.memory.ledger.items import fingerprint
from pmd.services.memory.ledger.rows import portions
from pmd.services.memory.ledger.tables import JUDGEMENTS

Pair = tuple[str, str]
"""Two fingerprints, the lower one first."""


class Judgement(NamedTuple):
    """A model's answer."""

    apart: bool
    """The notes contradict each other, or say the same: they are not shown together."""
    step: int
    model: str


def pair(a: str, b: str) -> Pair:
    """The pair of two texts."""
    low, high = sorted((fingerprint(a), fingerprint(b)))
    return low, high


def judgements(db: sa.Connection, bank: str, texts: Sequence[str]) -> dict[Pair, Judgement]:
    """What was said of the pairs among some texts."""
    named = {fingerprint(text) for text in texts}
    query = sa.select(JUDGEMENTS).where(JUDGEMENTS.c.bank == bank)
    parts = (db.execute(query.where(JUDGEMENTS.c.low.in_(part))) for part in portions(sorted(named)))
    return {
        (row.low, row.high): Judgement(bool(row.apart), row.step, row.model)
        for rows in parts
        for row in rows
        if row.high in named
    }


def of_step(db: sa.Connection, bank: str, step: int) -> list[bool]:
    """The answers that a step got: whether the notes are kept apart."""
    here = sa.and_(JUDGEMENTS.c.bank == bank, JUDGEMENTS.c.step == step)
    return list(db.scalars(sa.select(JUDGEMENTS.c.apart).where(here)))


def keep(db: sa.Connection, bank: str, found: Mapping[Pair, Judgement]) -> None:
    """Keep what was said of pairs that nothing was known of."""
    rows = [{"bank": bank, "low": low, "high": high} | said._asdict() for (low, high), said in found.items()]
    if rows:
        db.execute(sa.insert(JUDGEMENTS), rows)
