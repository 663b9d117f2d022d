"""The bank for people to read, over REST: items, their history, the audit log."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Response

from pmd.services.common.requests import MemoryCounts
from pmd.services.common.wire import Level, Slug
from pmd.services.memory.api.caller import etag
from pmd.services.memory.api.views import (
    AnnotationView,
    AuditPage,
    AuditRow,
    BankList,
    Diff,
    ItemDetail,
    ItemPage,
    ItemView,
    VersionView,
)
from pmd.services.memory.curate import changes
from pmd.services.memory.ledger import Filter, Kind, Ledger, Status, reads
from pmd.services.memory.ledger.tables import ANNOTATIONS, AUDIT

PAGE = 50

Bank = Annotated[Slug, Path(description="Id of the bank; a run's bank has the run's id.")]
ItemId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,64}$", description="Id of the item.")]
Seq = Annotated[int, Query(ge=0, le=2**53)]
Words = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="Beginnings of words.")]

REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"description": "no such bank or item"},
    409: {"description": "the bank's state forbids it, or the Idempotency-Key names another request"},
    412: {"description": "the item has moved on; the answer holds its current version"},
    428: {"description": "If-Match is missing"},
    503: {"description": "the ledger is busy or out of reach; see Retry-After"},
}


def add_reading(routes: APIRouter, ledger: Ledger) -> None:
    """The routes that change nothing."""

    @routes.get("/v1/banks")
    def list_banks() -> BankList:
        """All banks."""
        return BankList(banks=ledger.banks())

    @routes.get("/v1/banks/{bank}", responses=REFUSALS)
    def get_bank(bank: Bank, response: Response) -> MemoryCounts:
        """Size of a bank by level, and its `seq`, which is also its ETag."""
        counts = ledger.counts(bank)
        response.headers["ETag"] = etag(counts.seq)
        return counts

    @routes.get("/v1/banks/{bank}/items", responses=REFUSALS)
    def list_items(
        bank: Bank,
        level: Level | None = None,
        kind: Kind | None = None,
        status: Annotated[Status | Literal["any"], Query()] = "active",
        problem_id: Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00]*$")] = None,
        held: Annotated[bool | None, Query(description="Pinned or edited by a person.")] = None,
        q: Words = None,
        sort: reads.Sort = "newest",
        after: Annotated[str, Query(max_length=20_000)] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = PAGE,
    ) -> ItemPage:
        """Items of a bank. `newest` and `oldest` go by the change, not by the step."""
        chosen = Filter(level, kind, None if status == "any" else status, problem_id, held, q)
        with ledger.read() as db:
            reads.known_seq(db, bank)
            items, following = reads.page(db, bank, chosen, sort=sort, after=after, limit=limit)
        return ItemPage(items=[ItemView.of(i) for i in items], next=following)

    @routes.get("/v1/banks/{bank}/items/{item_id}", responses=REFUSALS)
    def get_item(bank: Bank, item_id: ItemId, response: Response) -> ItemDetail:
        """One item with its history and annotations. Its ETag is its version."""
        with ledger.read() as db:
            versions = _history(db, bank, item_id)
            here = sa.and_(ANNOTATIONS.c.bank == bank, ANNOTATIONS.c.item_id == item_id)
            remarks = db.execute(sa.select(ANNOTATIONS).where(here).order_by(ANNOTATIONS.c.seq)).all()
        response.headers["ETag"] = etag(versions[-1][0].version)
        return ItemDetail(
            item=ItemView.of(versions[-1][0]),
            history=[VersionView.of(*version) for version in versions],
            annotations=[AnnotationView(seq=r.seq, at=r.at, actor=r.actor, text=r.text) for r in remarks],
        )

    @routes.get("/v1/banks/{bank}/items/{item_id}/diff", responses=REFUSALS)
    def diff_item(
        bank: Bank,
        item_id: ItemId,
        before: Annotated[
            int | None, Query(ge=1, le=2**31, description="Version; the last but one if missing.")
        ] = None,
        after: Annotated[int | None, Query(ge=1, le=2**31, description="Version; the newest if missing.")] = None,
    ) -> Diff:
        """Two versions of an item compared."""
        with ledger.read() as db:
            versions = {v.version: VersionView.of(v, actor) for v, actor in _history(db, bank, item_id)}
        newest = max(versions)
        right = after or newest
        left = before or max(1, right - 1)
        if missing := {left, right} - versions.keys():
            raise changes.Missing(f"item {item_id!r} has no version {min(missing)}; its newest is {newest}")
        old, new = versions[left], versions[right]
        parts = difflib.unified_diff(
            old.text.splitlines(), new.text.splitlines(), f"version {left}", f"version {right}", lineterm=""
        )
        return Diff(before=old, after=new, text="\n".join(parts))

    @routes.get("/v1/banks/{bank}/audit", responses=REFUSALS)
    def audit(
        bank: Bank,
        after: Annotated[str, Query(pattern=r"^(\d{1,15}\.\d{1,9})?$", description="`next` of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> AuditPage:
        """Who changed what, oldest first: a row for each change by a person, one for each job."""
        seq, n = map(int, (after or "0.0").split("."))
        later = sa.or_(AUDIT.c.seq > seq, sa.and_(AUDIT.c.seq == seq, AUDIT.c.n > n))
        query = sa.select(AUDIT).where(AUDIT.c.bank == bank, later).order_by(AUDIT.c.seq, AUDIT.c.n).limit(limit)
        with ledger.read() as db:
            reads.known_seq(db, bank)
            rows = [_audit_row(row) for row in db.execute(query)]
        return AuditPage(rows=rows, next=f"{rows[-1].seq}.{rows[-1].n}" if rows else after)


def _history(db: sa.Connection, bank: str, item_id: str) -> list[tuple[Any, str]]:
    versions = reads.history(db, bank, item_id)
    if not versions:
        raise changes.Missing(f"no item {item_id!r} in bank {bank!r}")
    return versions


def _audit_row(row: Any) -> AuditRow:
    given = {k: v for k, v in row._mapping.items() if k not in {"bank", "detail"}}
    return AuditRow(**given, detail=json.loads(row.detail))
