"""Clusters of a bank's problems as the ledger keeps them: which problems ask the like, and whose strategies are new.

Invariant: a problem that is in a cluster stays in it, whatever becomes of its notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pmd.services.memory.ledger.rows import portions
from pmd.services.memory.ledger.tables import BANKS, CLUSTERS, ITEMS, MEMBERS
from pmd.services.memory.ledger.transaction import Transaction


class Centre(NamedTuple):
    """A cluster as far as vectors say what belongs to it."""

    id: str
    embedder: str
    size: int
    sum: bytes
    """Of its members' vectors, float32."""


def changed_problems(db: sa.Connection, bank: str) -> list[str]:
    """The problems whose notes changed since clusters were last looked at."""
    done = sa.select(BANKS.c.clustered).where(BANKS.c.bank == bank).scalar_subquery()
    here = sa.and_(ITEMS.c.bank == bank, ITEMS.c.seq > done, ITEMS.c.level == "insight")
    return list(db.scalars(sa.select(ITEMS.c.scope).where(here).distinct().order_by(ITEMS.c.scope)))


def newest_strategies(db: sa.Connection, bank: str, problem_ids: Sequence[str]) -> dict[str, int]:
    """The step of the newest strategy that stands, of those of the problems that have one."""
    query = (
        sa.select(ITEMS.c.scope, sa.func.max(ITEMS.c.step))
        .where(ITEMS.c.bank == bank, ITEMS.c.level == "insight", ITEMS.c.status == "active")
        .where(ITEMS.c.kind == "strategy")
        .group_by(ITEMS.c.scope)
    )
    parts = (db.execute(query.where(ITEMS.c.scope.in_(part))) for part in portions(problem_ids))
    return {row[0]: row[1] for rows in parts for row in rows}


def centres(db: sa.Connection, bank: str) -> list[Centre]:
    """All clusters of a bank, by id."""
    columns = (CLUSTERS.c.id, CLUSTERS.c.embedder, CLUSTERS.c.size, CLUSTERS.c.sum)
    rows = db.execute(sa.select(*columns).where(CLUSTERS.c.bank == bank).order_by(CLUSTERS.c.id))
    return [Centre(*row) for row in rows]


def clusters_of(db: sa.Connection, bank: str, problem_ids: Sequence[str]) -> dict[str, str]:
    """The clusters of those of the problems that are in one."""
    query = sa.select(MEMBERS.c.problem_id, MEMBERS.c.cluster)
    here = sa.and_(MEMBERS.c.bank == bank, MEMBERS.c.cluster.is_not(None))
    parts = (db.execute(query.where(here, MEMBERS.c.problem_id.in_(part))) for part in portions(problem_ids))
    return {row.problem_id: row.cluster for rows in parts for row in rows}


def everybody(db: sa.Connection, bank: str) -> dict[str, str]:
    """The cluster of each problem that is in one."""
    query = sa.select(MEMBERS.c.problem_id, MEMBERS.c.cluster).where(MEMBERS.c.bank == bank)
    return {row.problem_id: row.cluster for row in db.execute(query.where(MEMBERS.c.cluster.is_not(None)))}


def members(db: sa.Connection, bank: str, cluster: str | None, limit: int | None = None) -> list[str]:
    """The problems of a cluster that have a strategy, those with the newest first; None: of no cluster."""
    here = sa.and_(MEMBERS.c.bank == bank, MEMBERS.c.cluster == cluster, MEMBERS.c.step.is_not(None))
    query = sa.select(MEMBERS.c.problem_id).where(here)
    return list(db.scalars(query.order_by(MEMBERS.c.step.desc(), MEMBERS.c.problem_id.desc()).limit(limit)))


def standing(db: sa.Connection, bank: str, cluster: str) -> int:
    """How many problems of a cluster have a strategy."""
    here = sa.and_(MEMBERS.c.bank == bank, MEMBERS.c.cluster == cluster, MEMBERS.c.step.is_not(None))
    return int(db.scalar(sa.select(sa.func.count()).where(here)) or 0)


def behind(db: sa.Connection, bank: str, limit: int) -> list[str]:
    """The clusters whose rules were not looked at since strategies changed, those that wait longest first."""
    here = sa.and_(CLUSTERS.c.bank == bank, CLUSTERS.c.behind > 0)
    query = sa.select(CLUSTERS.c.id).where(here).order_by(CLUSTERS.c.behind, CLUSTERS.c.id)
    return list(db.scalars(query.limit(limit)))


def place(
    tx: Transaction, upto: int, centres: Iterable[Centre], placed: Mapping[str, tuple[str | None, int | None]]
) -> None:
    """Keep where problems belong; the clusters that they are in are behind from now on.

    Args:
        upto: the `seq` of the bank as it was read.
        centres: of the clusters that are new or have other members.
        placed: by problem its cluster, if there is one, and the step of its newest strategy.
    """
    insert = sqlite.insert if tx.db.dialect.name == "sqlite" else postgresql.insert
    rows = [{"bank": tx.bank, "behind": 0} | centre._asdict() for centre in centres]
    if rows:
        made = insert(CLUSTERS)
        changed = {name: made.excluded[name] for name in ("embedder", "size", "sum")}
        tx.db.execute(made.on_conflict_do_update(index_elements=["bank", "id"], set_=changed), rows)
    found = [{"bank": tx.bank, "problem_id": pid, "cluster": c, "step": step} for pid, (c, step) in placed.items()]
    if found:
        made = insert(MEMBERS)
        changed = {name: made.excluded[name] for name in ("cluster", "step")}
        tx.db.execute(made.on_conflict_do_update(index_elements=["bank", "problem_id"], set_=changed), found)
    for part in portions(sorted({cluster for cluster, _ in placed.values() if cluster})):
        here = sa.and_(CLUSTERS.c.bank == tx.bank, CLUSTERS.c.id.in_(part), CLUSTERS.c.behind == 0)
        tx.db.execute(sa.update(CLUSTERS).where(here).values(behind=upto))
    tx.db.execute(sa.update(BANKS).where(BANKS.c.bank == tx.bank).values(clustered=upto))


def looked_at(tx: Transaction, clusters: Sequence[str]) -> None:
    """The rules of clusters have been looked at: they are behind no more."""
    for part in portions(clusters):
        here = sa.and_(CLUSTERS.c.bank == tx.bank, CLUSTERS.c.id.in_(part))
        tx.db.execute(sa.update(CLUSTERS).where(here).values(behind=0))
