"""The bank for people to change, over REST.

Every change is one transaction that grows the bank's `seq`. What is changed here is seen by the next step of a run:
a step that has begun goes on with what it began with.
"""

from __future__ import annotations

import hashlib
import tempfile
from typing import IO, Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from pmd.services.common.app import known_query
from pmd.services.memory.api.caller import Answer, Asks, Caller, Streams, change, etag
from pmd.services.memory.api.read import REFUSALS, Bank, ItemId, add_reading
from pmd.services.memory.api.views import (
    BulkResult,
    ImportResult,
    ItemView,
    ProposalPage,
    ProposalView,
    RefusedItem,
    RollbackResult,
)
from pmd.services.memory.curate import changes, portable
from pmd.services.memory.curate.requests import (
    Annotation,
    Bulk,
    Edit,
    ItemRef,
    Merge,
    NewItem,
    Reason,
    Revert,
    Rollback,
    Split,
    Where,
)
from pmd.services.memory.index.index import IndexDown
from pmd.services.memory.index.search import Search
from pmd.services.memory.ledger import Filter, Item, Ledger, Transaction, UnknownBank, reads
from pmd.services.memory.ledger.tables import PROPOSALS

MAX_BULK = 5000
MAX_IMPORT_BYTES = 2 * 2**30
SPOOL_BYTES = 8 * 2**20
"""Larger imports wait on disk."""


def router(ledger: Ledger, search: Search) -> APIRouter:
    """The routes over `ledger`; `search` forgets a bank with it."""
    routes = APIRouter(tags=["banks"], dependencies=[Depends(known_query)])
    add_reading(routes, ledger)
    _items(routes, ledger)
    _many(routes, ledger)
    _proposals(routes, ledger)
    _whole(routes, ledger, search)
    return routes


def _filter(where: Where) -> Filter:
    return Filter(
        level=where.level,
        kind=where.kind,
        status=where.status,
        scope=where.problem_id,
        held=where.held,
        text=where.q,
    )


def _items(routes: APIRouter, ledger: Ledger) -> None:
    @routes.post("/v1/banks/{bank}/items", status_code=201, response_model=ItemView, responses=REFUSALS)
    def add_item(bank: Bank, new: NewItem, caller: Asks) -> JSONResponse:
        """Add a note by hand."""

        def do(tx: Transaction) -> Answer:
            item = changes.add(tx, new, caller.actor)
            return Answer(ItemView.of(item), item.version, 201)

        return change(ledger, bank, caller, do)

    @routes.patch("/v1/banks/{bank}/items/{item_id}", response_model=ItemView, responses=REFUSALS)
    def edit_item(bank: Bank, item_id: ItemId, edit: Edit, caller: Asks) -> JSONResponse:
        """Reword a note. From then on the machine proposes changes of it and makes none."""
        versions = caller.versions()
        return _one(ledger, bank, caller, lambda tx: changes.edit(tx, item_id, versions, edit, caller.actor))

    @routes.post("/v1/banks/{bank}/items/{item_id}:annotate", response_model=ItemView, responses=REFUSALS)
    def annotate_item(bank: Bank, item_id: ItemId, remark: Annotation, caller: Asks) -> JSONResponse:
        """Attach a remark; the item and its version stay."""

        def do(tx: Transaction) -> Answer:
            item = changes.current(tx, item_id, None)
            tx.annotate(item, caller.actor, remark.text)
            return Answer(ItemView.of(item), item.version)

        return change(ledger, bank, caller, do)

    @routes.post("/v1/banks/{bank}/items/{item_id}:split", response_model=list[ItemView], responses=REFUSALS)
    def split_item(bank: Bank, item_id: ItemId, asked: Split, caller: Asks) -> JSONResponse:
        """Turn one note into several; it is superseded by them."""
        versions = caller.versions()

        def do(tx: Transaction) -> Answer:
            return Answer([ItemView.of(i) for i in changes.split(tx, item_id, versions, asked, caller.actor)])

        return change(ledger, bank, caller, do)

    @routes.post("/v1/banks/{bank}/items/{item_id}:revert", response_model=ItemView, responses=REFUSALS)
    def revert_item(bank: Bank, item_id: ItemId, to: Revert, caller: Asks) -> JSONResponse:
        """Bring back the wording of an earlier version, as a new one."""
        versions = caller.versions()
        return _one(ledger, bank, caller, lambda tx: changes.revert(tx, item_id, versions, to.version, caller.actor))

    @routes.post("/v1/banks/{bank}/items/{item_id}:{action}", response_model=ItemView, responses=REFUSALS)
    def act_on_item(
        bank: Bank,
        item_id: ItemId,
        action: Literal["pin", "unpin", "ban", "restore"],
        caller: Asks,
        why: Reason | None = None,
    ) -> JSONResponse:
        """pin: machines leave it as it is. unpin: give it back to them, edited or not. ban: its text is never shown
        again, whoever writes it. restore: active again, and a person stands behind it."""
        versions = caller.versions()
        reason = why.reason if why else ""
        return _one(ledger, bank, caller, lambda tx: changes.act(tx, item_id, versions, action, caller.actor, reason))


def _one(ledger: Ledger, bank: str, caller: Caller, do: Any) -> JSONResponse:
    def answered(tx: Transaction) -> Answer:
        item = do(tx)
        return Answer(ItemView.of(item), item.version)

    return change(ledger, bank, caller, answered)


def _many(routes: APIRouter, ledger: Ledger) -> None:
    @routes.post("/v1/banks/{bank}/items:merge", status_code=201, response_model=ItemView, responses=REFUSALS)
    def merge_items(bank: Bank, asked: Merge, caller: Asks) -> JSONResponse:
        """Make several notes one; `items` names the versions that were seen."""

        def do(tx: Transaction) -> Answer:
            item = changes.merge(tx, asked, caller.actor)
            return Answer(ItemView.of(item), item.version, 201)

        return change(ledger, bank, caller, do)

    @routes.post("/v1/banks/{bank}/items:bulk", response_model=BulkResult, responses=REFUSALS)
    def bulk(bank: Bank, asked: Bulk, caller: Asks) -> Any:
        """Pin, unpin, ban or restore many items, all or none. First a dry run with `where`, then `items` from it."""
        if (asked.where is None) == (asked.items is None):
            raise changes.Invalid("where", "give either `where` (dry run) or `items`")
        if asked.dry_run:
            return _dry_run(ledger, bank, asked)
        if asked.items is None:
            raise changes.Invalid("items", "a real run takes the `items` that a dry run answered with")
        given = asked.items

        def do(tx: Transaction) -> Answer:
            done, unchanged = changes.bulk(tx, given, asked.action, caller.actor, asked.reason)
            return Answer(BulkResult(action=asked.action, dry_run=False, items=_refs(done), unchanged=unchanged))

        return change(ledger, bank, caller, do)


def _dry_run(ledger: Ledger, bank: str, asked: Bulk) -> BulkResult:
    with ledger.read() as db:
        reads.known_seq(db, bank)
        if asked.where is None:
            found = changes.seen(db, bank, asked.items or [])
        else:
            found, more = reads.page(db, bank, _filter(asked.where), limit=MAX_BULK)
            if more:
                raise changes.Invalid("where", f"more than {MAX_BULK} items; narrow it down")
        plan = changes.plan(db, bank, found, asked.action)
    refused = [RefusedItem(id=item_id, why=why) for item_id, why in plan.refused.items()]
    return BulkResult(
        action=asked.action, dry_run=True, items=_refs(plan.changes), unchanged=plan.unchanged, refused=refused
    )


def _refs(items: list[Item]) -> list[ItemRef]:
    return [ItemRef(id=item.id, version=item.version) for item in items]


def _proposals(routes: APIRouter, ledger: Ledger) -> None:
    @routes.get("/v1/banks/{bank}/proposals", responses=REFUSALS)
    def list_proposals(
        bank: Bank,
        status: Literal["open", "accepted", "rejected", "any"] = "open",
        after: Annotated[
            str, Query(pattern=r"^(\d{1,15}\.[0-9a-f-]{1,64})?$", description="`next` of the page before.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> ProposalPage:
        """What the machine would change of items that people hold, newest first."""
        query = sa.select(PROPOSALS).where(PROPOSALS.c.bank == bank)
        if status != "any":
            query = query.where(PROPOSALS.c.status == status)
        if after:
            seq, _, last = after.partition(".")
            same = sa.and_(PROPOSALS.c.seq == int(seq), PROPOSALS.c.id > last)
            query = query.where(sa.or_(PROPOSALS.c.seq < int(seq), same))
        with ledger.read() as db:
            reads.known_seq(db, bank)
            rows = db.execute(query.order_by(PROPOSALS.c.seq.desc(), PROPOSALS.c.id).limit(limit)).all()
        following = f"{rows[-1].seq}.{rows[-1].id}" if len(rows) == limit else None
        return ProposalPage(proposals=[ProposalView.of(row) for row in rows], next=following)

    @routes.post("/v1/banks/{bank}/proposals/{proposal}:accept", response_model=ItemView, responses=REFUSALS)
    def accept_proposal(bank: Bank, proposal: ItemId, caller: Asks) -> JSONResponse:
        """Do what the machine wishes; `If-Match` names the version of its item."""
        versions = caller.versions()
        return _one(ledger, bank, caller, lambda tx: changes.accept(tx, proposal, versions, caller.actor))

    @routes.post("/v1/banks/{bank}/proposals/{proposal}:reject", status_code=200, responses=REFUSALS)
    def reject_proposal(bank: Bank, proposal: ItemId, caller: Asks) -> JSONResponse:
        """Decline; the same wish is not made again."""

        def do(tx: Transaction) -> Answer:
            changes.reject(tx, proposal, caller.actor)
            return Answer([])

        return change(ledger, bank, caller, do)


class _Dry(Exception):
    """Undoes a dry run and carries what it would have answered."""

    def __init__(self, result: RollbackResult) -> None:
        super().__init__()
        self.result = result


def _whole(routes: APIRouter, ledger: Ledger, search: Search) -> None:
    @routes.post("/v1/banks/{bank}:rollback", response_model=RollbackResult, responses=REFUSALS)
    def rollback(bank: Bank, to: Rollback, caller: Asks) -> Any:
        """Bring every item back to what it was at `seq`; `If-Match` is the ETag of the bank. History and bans stay."""
        seqs = None if to.dry_run else caller.versions()

        def do(tx: Transaction) -> Answer:
            if seqs is not None and tx.seq - 1 not in seqs:
                now = tx.seq - 1
                raise HTTPException(
                    412, f"the bank is at seq {now} by now; look at it and try again", headers={"ETag": etag(now)}
                )
            changed, retired = changes.rollback(tx, to.seq, caller.actor)
            result = RollbackResult(dry_run=to.dry_run, changed=changed, retired=retired)
            if to.dry_run:
                raise _Dry(result)
            return Answer(result, tx.seq)

        try:
            return change(ledger, bank, caller, do)
        except _Dry as dry:
            return dry.result

    @routes.get("/v1/banks/{bank}/export", response_class=StreamingResponse, responses=REFUSALS)
    def export(bank: Bank, seq: Annotated[int | None, Query(ge=0, le=2**53)] = None) -> StreamingResponse:
        """The bank as JSON lines: as it is, or the snapshot at `seq`."""
        if not ledger.seq(bank):
            raise UnknownBank(bank)
        return StreamingResponse(portable.pages(ledger, bank, seq), media_type="application/x-ndjson")

    @routes.post("/v1/banks/{bank}:import", response_model=ImportResult, responses=REFUSALS)
    async def import_(bank: Bank, request: Request, caller: Streams) -> JSONResponse:
        """Add what an export holds, in one transaction; a bad line refuses it all and is named."""
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
            digest = hashlib.sha256()
            async for chunk in request.stream():
                digest.update(chunk)
                if file.tell() + len(chunk) > MAX_IMPORT_BYTES:
                    raise HTTPException(413, f"an import is at most {MAX_IMPORT_BYTES >> 20} MiB")
                file.write(chunk)
            return await run_in_threadpool(_import, ledger, bank, file, caller.sends(digest.digest()))

    @routes.delete("/v1/banks/{bank}", status_code=204, responses=REFUSALS)
    def delete_bank(bank: Bank) -> None:
        """Forget a bank entirely, history and index included."""
        try:
            search.delete(bank)
        except IndexDown as error:
            raise HTTPException(503, f"nothing was deleted, try again once the index is back: {error}") from error


def _import(ledger: Ledger, bank: str, file: IO[bytes], caller: Caller) -> JSONResponse:
    about = portable.survey(file, bank)

    def do(tx: Transaction) -> Answer:
        added = portable.load_into(tx, file, about, caller.actor)
        known, problems = about.items - added, len(about.problems)
        return Answer(ImportResult(seq=tx.seq, added=added, known=known, problems=problems), tx.seq)

    return change(ledger, bank, caller, do, create=True)
