"""The bank for people to change, over REST.

Every change is one transaction that grows the bank's `seq`. What is changed here is seen by the next step of a run:
a step that has begun goes on with what it began with.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from typing import IO, Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from pmd.services.common.app import NO_PRECONDITION, known_query
from pmd.services.common.bank import (
    Action,
    BulkResult,
    ImportResult,
    ItemRef,
    ItemView,
    ProposalView,
    RefusedItem,
    RollbackResult,
)
from pmd.services.common.curation import (
    ACTS,
    JSON_LINES,
    Annotation,
    Bulk,
    Edit,
    ExportQuery,
    IfMatchOrNone,
    ImportQuery,
    Merge,
    NewItem,
    Reason,
    Revert,
    Rollback,
    Split,
    Where,
)
from pmd.services.memory.api.caller import Answer, Caller, Dry, Seen, StreamingCaller, TheCaller, change, seen_in
from pmd.services.memory.api.deps import (
    CHANGE_REFUSALS,
    REFUSALS,
    SEEN_REFUSALS,
    BankId,
    InPath,
    OfProposal,
    TheLedger,
    TheSearch,
)
from pmd.services.memory.api.views import item_view, proposal_view
from pmd.services.memory.curate import changes, portable
from pmd.services.memory.curate.snapshots import seq_of
from pmd.services.memory.index.index import IndexDown
from pmd.services.memory.ledger import BankMoved, Filter, Item, Ledger, Transaction, reads
from pmd.services.memory.ledger.tables import PROPOSALS

MAX_BULK = 5000
MAX_IMPORT_BYTES = 2 * 2**30
SPOOL_BYTES = 8 * 2**20
"""Larger imports wait on disk."""

routes = APIRouter(tags=["banks"], dependencies=[Depends(known_query)])

# ------------------------------------------------------------ one item


@routes.post("/v1/banks/{bank}/items", status_code=201, response_model=ItemView, responses=CHANGE_REFUSALS)
def add_item(bank: BankId, new: NewItem, caller: TheCaller, ledger: TheLedger) -> JSONResponse:
    """Add a note by hand."""
    return _one(ledger, bank, caller, lambda tx: changes.add(tx, new, caller.actor), status=201)


@routes.patch("/v1/banks/{bank}/items/{item_id}", response_model=ItemView, responses=SEEN_REFUSALS)
def edit_item(
    bank: BankId, item_id: InPath, edit: Edit, caller: TheCaller, seen: Seen, ledger: TheLedger
) -> JSONResponse:
    """Reword a note. From then on the machine proposes changes of it and makes none."""
    return _one(ledger, bank, caller, lambda tx: changes.edit(tx, item_id, seen, edit, caller.actor))


@routes.post("/v1/banks/{bank}/items/{item_id}:annotate", response_model=ItemView, responses=CHANGE_REFUSALS)
def annotate_item(
    bank: BankId, item_id: InPath, remark: Annotation, caller: TheCaller, ledger: TheLedger
) -> JSONResponse:
    """Attach a remark; the item and its version stay."""

    def do(tx: Transaction) -> Item:
        item = changes.current(tx, item_id, None)
        tx.annotate(item, caller.actor, remark.text)
        return item

    return _one(ledger, bank, caller, do)


@routes.post("/v1/banks/{bank}/items/{item_id}:split", response_model=list[ItemView], responses=SEEN_REFUSALS)
def split_item(
    bank: BankId, item_id: InPath, asked: Split, caller: TheCaller, seen: Seen, ledger: TheLedger
) -> JSONResponse:
    """Turn one note into several; it is superseded by them."""

    def do(tx: Transaction) -> Answer:
        return Answer([item_view(item) for item in changes.split(tx, item_id, seen, asked, caller.actor)])

    return change(ledger, bank, caller, do)


@routes.post("/v1/banks/{bank}/items/{item_id}:revert", response_model=ItemView, responses=SEEN_REFUSALS)
def revert_item(
    bank: BankId, item_id: InPath, to: Revert, caller: TheCaller, seen: Seen, ledger: TheLedger
) -> JSONResponse:
    """Bring back the wording of an earlier version, as a new one."""
    return _one(ledger, bank, caller, lambda tx: changes.revert(tx, item_id, seen, to.version, caller.actor))


def _add_act(action: Action) -> None:
    def act(
        bank: BankId, item_id: InPath, caller: TheCaller, seen: Seen, ledger: TheLedger, why: Reason | None = None
    ) -> JSONResponse:
        reason = why.reason if why else ""
        return _one(ledger, bank, caller, lambda tx: changes.act(tx, item_id, seen, action, caller.actor, reason))

    routes.add_api_route(
        f"/v1/banks/{{bank}}/items/{{item_id}}:{action}",
        act,
        methods=["POST"],
        name=f"{action}_item",
        description=ACTS[action],
        response_model=ItemView,
        responses=SEEN_REFUSALS,
    )


for _action in ACTS:
    _add_act(_action)


def _one(
    ledger: Ledger, bank: str, caller: Caller, do: Callable[[Transaction], Item], status: int = 200
) -> JSONResponse:
    def answered(tx: Transaction) -> Answer:
        item = do(tx)
        return Answer(item_view(item), item.version, status)

    return change(ledger, bank, caller, answered)


# ------------------------------------------------------------ many items


@routes.post("/v1/banks/{bank}/items:merge", status_code=201, response_model=ItemView, responses=SEEN_REFUSALS)
def merge_items(bank: BankId, asked: Merge, caller: TheCaller, ledger: TheLedger) -> JSONResponse:
    """Make several notes one; `items` names the versions that were seen."""
    return _one(ledger, bank, caller, lambda tx: changes.merge(tx, asked, caller.actor), status=201)


@routes.post("/v1/banks/{bank}/items:bulk", response_model=BulkResult, responses=SEEN_REFUSALS)
def bulk(bank: BankId, asked: Bulk, caller: TheCaller, ledger: TheLedger) -> Any:
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


def _filter(where: Where) -> Filter:
    return Filter(
        level=where.level,
        kind=where.kind,
        status=where.status,
        scope=where.problem_id,
        protected=where.protected,
        text=where.q,
    )


def _refs(items: list[Item]) -> list[ItemRef]:
    return [ItemRef(id=item.id, version=item.version) for item in items]


# ------------------------------------------------------------ what the machine proposes


@routes.post("/v1/banks/{bank}/proposals/{proposal}:accept", response_model=ItemView, responses=SEEN_REFUSALS)
def accept_proposal(
    bank: BankId, proposal: OfProposal, caller: TheCaller, seen: Seen, ledger: TheLedger
) -> JSONResponse:
    """Do what the machine proposes; `If-Match` names the version of its item."""
    return _one(ledger, bank, caller, lambda tx: changes.accept(tx, proposal, seen, caller.actor))


@routes.post("/v1/banks/{bank}/proposals/{proposal}:reject", response_model=ProposalView, responses=CHANGE_REFUSALS)
def reject_proposal(bank: BankId, proposal: OfProposal, caller: TheCaller, ledger: TheLedger) -> JSONResponse:
    """Decline; the same proposal is not made again."""

    def do(tx: Transaction) -> Answer:
        changes.reject(tx, proposal, caller.actor)
        here = sa.and_(PROPOSALS.c.bank == bank, PROPOSALS.c.id == proposal)
        return Answer(proposal_view(tx.db.execute(sa.select(PROPOSALS).where(here)).one()))

    return change(ledger, bank, caller, do)


# ------------------------------------------------------------ the whole bank


@routes.post("/v1/banks/{bank}:rollback", response_model=RollbackResult, responses=SEEN_REFUSALS)
def rollback(
    bank: BankId, to: Rollback, caller: TheCaller, ledger: TheLedger, if_match: IfMatchOrNone = None
) -> JSONResponse:
    """Bring every item back to what it was at `seq`, a number or a snapshot. History and bans stay. `If-Match`, the
    ETag of the bank, is needed unless it is a dry run."""
    if if_match is None and not to.dry_run:
        raise HTTPException(428, NO_PRECONDITION)
    seqs = None if to.dry_run or if_match is None else seen_in(if_match)

    def do(tx: Transaction) -> Answer:
        if seqs is not None and tx.seq - 1 not in seqs:
            raise BankMoved(tx.seq - 1)
        changed, retired = changes.rollback(tx, seq_of(tx.db, tx.bank, to.seq), caller.actor)
        result = RollbackResult(dry_run=to.dry_run, changed=changed, retired=retired)
        if to.dry_run:
            raise Dry(result)
        return Answer(result, tx.seq)

    return change(ledger, bank, caller, do)


@routes.get(
    "/v1/banks/{bank}/export",
    response_class=StreamingResponse,
    responses={**REFUSALS, 200: {"content": JSON_LINES}},
)
def export(bank: BankId, asked: Annotated[ExportQuery, Query()], ledger: TheLedger) -> StreamingResponse:
    """The bank as JSON lines: as it is, or as it was at `seq`, a number or a snapshot. Its problems come with their
    verifiers, hidden tests included."""
    with ledger.read() as db:
        reads.known_seq(db, bank)
        seq = None if asked.seq is None else seq_of(db, bank, asked.seq)
    return StreamingResponse(portable.pages(ledger, bank, seq), media_type="application/x-ndjson")


@routes.post(
    "/v1/banks/{bank}:import",
    response_model=ImportResult,
    responses=CHANGE_REFUSALS,
    openapi_extra={"requestBody": {"required": True, "content": JSON_LINES}},
)
async def import_(
    bank: BankId, request: Request, caller: StreamingCaller, ledger: TheLedger, asked: Annotated[ImportQuery, Query()]
) -> JSONResponse:
    """Add what an export holds, in one transaction; a bad line refuses it all and is named. A dry run says what
    would be added."""
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
        digest = hashlib.sha256()
        async for chunk in request.stream():
            digest.update(chunk)
            if file.tell() + len(chunk) > MAX_IMPORT_BYTES:
                raise HTTPException(413, f"an import is at most {MAX_IMPORT_BYTES >> 20} MiB")
            file.write(chunk)
        return await run_in_threadpool(_import, ledger, bank, file, caller.sends(digest.digest()), asked.dry_run)


def _import(ledger: Ledger, bank: str, file: IO[bytes], caller: Caller, dry_run: bool) -> JSONResponse:
    about = portable.survey(file, bank)

    def do(tx: Transaction) -> Answer:
        added = portable.load_into(tx, file, about, caller.actor)
        known, problems = about.items - added, len(about.problems)
        seq = tx.seq - dry_run
        result = ImportResult(seq=seq, dry_run=dry_run, added=added, known=known, problems=problems)
        if dry_run:
            raise Dry(result)
        return Answer(result, seq)

    return change(ledger, bank, caller, do, create=True)


@routes.delete("/v1/banks/{bank}", status_code=204, responses=SEEN_REFUSALS)
def delete_bank(bank: BankId, seen: Seen, search: TheSearch) -> None:
    """Forget a bank entirely, history and index included; `If-Match` is the ETag of the bank."""
    try:
        search.delete(bank, seen)
    except IndexDown as error:
        raise HTTPException(503, f"nothing was deleted, try again once the index is back: {error}") from error
