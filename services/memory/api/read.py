"""The bank for people to read, over REST: items, their history, proposals, the audit log."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Response

from pmd.services.common.app import known_query
from pmd.services.common.bank import (
    AnnotationView,
    AuditPage,
    AuditRow,
    BankList,
    Diff,
    ItemDetail,
    ItemPage,
    ProposalPage,
)
from pmd.services.common.curation import AuditQuery, DiffQuery, ItemQuery, ProposalQuery
from pmd.services.common.requests import MemoryCounts
from pmd.services.memory.api.caller import etag
from pmd.services.memory.api.deps import REFUSALS, BankId, InPath, TheLedger
from pmd.services.memory.api.views import item_view, proposal_view, version_view
from pmd.services.memory.curate import changes
from pmd.services.memory.ledger import Filter, fingerprint, reads
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import ANNOTATIONS, AUDIT, PROPOSALS

routes = APIRouter(tags=["banks"], dependencies=[Depends(known_query)])


@routes.get("/v1/banks")
def list_banks(ledger: TheLedger) -> BankList:
    """All banks."""
    return BankList(banks=ledger.banks())


@routes.get("/v1/banks/{bank}", responses=REFUSALS)
def get_bank(bank: BankId, ledger: TheLedger, response: Response) -> MemoryCounts:
    """Size of a bank by level, and its `seq`, which is also its ETag."""
    counts = ledger.counts(bank)
    response.headers["ETag"] = etag(counts.seq)
    return counts


@routes.get("/v1/banks/{bank}/items", responses=REFUSALS)
def list_items(bank: BankId, asked: Annotated[ItemQuery, Query()], ledger: TheLedger) -> ItemPage:
    """Items of a bank. `newest` and `oldest` go by the change, not by the step."""
    chosen = Filter(
        asked.level,
        asked.kind,
        None if asked.status == "any" else asked.status,
        asked.problem_id,
        asked.protected,
        asked.q,
    )
    with ledger.read() as db:
        reads.known_seq(db, bank)
        if asked.same_as is not None:
            note = load(db, bank, [asked.same_as]).get(asked.same_as)
            if note is None:
                raise changes.Missing(f"no item {asked.same_as!r} in bank {bank!r}")
            level, kind = asked.level or note.level, asked.kind or note.kind
            chosen = replace(chosen, level=level, kind=kind, fingerprint=fingerprint(note.text))
        items, following = reads.page(db, bank, chosen, sort=asked.sort, after=asked.after, limit=asked.limit)
    return ItemPage(items=[item_view(i) for i in items], next=following)


@routes.get("/v1/banks/{bank}/items/{item_id}", responses=REFUSALS)
def get_item(bank: BankId, item_id: InPath, ledger: TheLedger, response: Response) -> ItemDetail:
    """One item with its history and annotations. Its ETag is its version."""
    with ledger.read() as db:
        versions = _history(db, bank, item_id)
        here = sa.and_(ANNOTATIONS.c.bank == bank, ANNOTATIONS.c.item_id == item_id)
        remarks = db.execute(sa.select(ANNOTATIONS).where(here).order_by(ANNOTATIONS.c.seq)).all()
    response.headers["ETag"] = etag(versions[-1][0].version)
    return ItemDetail(
        item=item_view(versions[-1][0]),
        history=[version_view(*version) for version in versions],
        annotations=[AnnotationView(seq=r.seq, at=r.at, actor=r.actor, text=r.text) for r in remarks],
    )


@routes.get("/v1/banks/{bank}/items/{item_id}/diff", responses=REFUSALS)
def diff_item(bank: BankId, item_id: InPath, asked: Annotated[DiffQuery, Query()], ledger: TheLedger) -> Diff:
    """Two versions of an item compared."""
    with ledger.read() as db:
        versions = {v.version: version_view(v, actor) for v, actor in _history(db, bank, item_id)}
    newest = max(versions)
    right = asked.after or newest
    left = asked.before or max(1, right - 1)
    if missing := {left, right} - versions.keys():
        raise changes.Missing(f"item {item_id!r} has no version {min(missing)}; its newest is {newest}")
    old, new = versions[left], versions[right]
    parts = difflib.unified_diff(
        old.text.splitlines(), new.text.splitlines(), f"version {left}", f"version {right}", lineterm=""
    )
    return Diff(before=old, after=new, text="\n".join(parts))


@routes.get("/v1/banks/{bank}/audit", responses=REFUSALS)
def audit(bank: BankId, asked: Annotated[AuditQuery, Query()], ledger: TheLedger) -> AuditPage:
    """Who changed what, oldest first: a row for each change by a person, one for each job."""
    seq, n = map(int, (asked.after or "0.0").split("."))
    later = sa.or_(AUDIT.c.seq > seq, sa.and_(AUDIT.c.seq == seq, AUDIT.c.n > n))
    query = sa.select(AUDIT).where(AUDIT.c.bank == bank, later).order_by(AUDIT.c.seq, AUDIT.c.n).limit(asked.limit)
    with ledger.read() as db:
        reads.known_seq(db, bank)
        rows = [_audit_row(row) for row in db.execute(query)]
    return AuditPage(rows=rows, next=f"{rows[-1].seq}.{rows[-1].n}" if rows else asked.after)


@routes.get("/v1/banks/{bank}/proposals", responses=REFUSALS)
def list_proposals(bank: BankId, asked: Annotated[ProposalQuery, Query()], ledger: TheLedger) -> ProposalPage:
    """What the machine would change of items that people hold, newest first."""
    query = sa.select(PROPOSALS).where(PROPOSALS.c.bank == bank)
    if asked.status != "any":
        query = query.where(PROPOSALS.c.status == asked.status)
    if asked.after:
        seq, _, last = asked.after.partition(".")
        same = sa.and_(PROPOSALS.c.seq == int(seq), PROPOSALS.c.id > last)
        query = query.where(sa.or_(PROPOSALS.c.seq < int(seq), same))
    with ledger.read() as db:
        reads.known_seq(db, bank)
        rows = db.execute(query.order_by(PROPOSALS.c.seq.desc(), PROPOSALS.c.id).limit(asked.limit)).all()
    following = f"{rows[-1].seq}.{rows[-1].id}" if len(rows) == asked.limit else None
    return ProposalPage(proposals=[proposal_view(row) for row in rows], next=following)


def _history(db: sa.Connection, bank: str, item_id: str) -> list[tuple[Any, str]]:
    versions = reads.history(db, bank, item_id)
    if not versions:
        raise changes.Missing(f"no item {item_id!r} in bank {bank!r}")
    return versions


def _audit_row(row: Any) -> AuditRow:
    given = {k: v for k, v in row._mapping.items() if k not in {"bank", "detail"}}
    return AuditRow(**given, detail=json.loads(row.detail))
