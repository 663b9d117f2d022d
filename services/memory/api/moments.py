"""A bank through time and beside another one, over REST: snapshots, differences, the undoing of an act."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import JSONResponse

from pmd.services.common.app import known_query
from pmd.services.common.bank import (
    BankComparison,
    BankDiff,
    ChangedItem,
    ItemRef,
    OneSided,
    SnapshotList,
    SnapshotView,
    UndoResult,
)
from pmd.services.common.curation import BankDiffQuery, CompareQuery, NewSnapshot, SnapshotName, Undo
from pmd.services.memory.api.caller import Answer, Dry, Seen, TheCaller, change, etag
from pmd.services.memory.api.deps import CHANGE_REFUSALS, REFUSALS, SEEN_REFUSALS, BankId, TheLedger
from pmd.services.memory.api.views import item_view
from pmd.services.memory.curate import changes, snapshots, undo
from pmd.services.memory.curate.compare import compare
from pmd.services.memory.ledger import Item, Transaction, reads

routes = APIRouter(tags=["banks"], dependencies=[Depends(known_query)])

OfSnapshot = Annotated[SnapshotName, Path(description="Name of the snapshot.")]


@routes.get("/v1/banks/{bank}/snapshots", responses=REFUSALS)
def list_snapshots(bank: BankId, ledger: TheLedger) -> SnapshotList:
    """The moments that people have named. Wherever a `seq` is asked for, a name will do."""
    with ledger.read() as db:
        reads.known_seq(db, bank)
        return SnapshotList(snapshots=snapshots.named(db, bank))


@routes.get("/v1/banks/{bank}/snapshots/{name}", responses=REFUSALS)
def get_snapshot(bank: BankId, name: OfSnapshot, ledger: TheLedger, response: Response) -> SnapshotView:
    """One snapshot. Its ETag is the `seq` that it stands for."""
    with ledger.read() as db:
        reads.known_seq(db, bank)
        found = snapshots.snapshot(db, bank, name)
    response.headers["ETag"] = etag(found.seq)
    return found


@routes.post("/v1/banks/{bank}/snapshots", status_code=201, response_model=SnapshotView, responses=CHANGE_REFUSALS)
def name_snapshot(bank: BankId, new: NewSnapshot, caller: TheCaller, ledger: TheLedger) -> JSONResponse:
    """Give a moment of the bank a name: as it is, or as it was at `seq`. Nothing is copied."""

    def do(tx: Transaction) -> Answer:
        made = snapshots.name(tx, new, caller.actor)
        return Answer(made, made.seq, 201)

    return change(ledger, bank, caller, do)


@routes.delete("/v1/banks/{bank}/snapshots/{name}", response_model=SnapshotList, responses=SEEN_REFUSALS)
def delete_snapshot(bank: BankId, name: OfSnapshot, caller: TheCaller, seen: Seen, ledger: TheLedger) -> JSONResponse:
    """Delete a name; what it stood for stays in the history. Answers with the names that are left."""

    def do(tx: Transaction) -> Answer:
        snapshots.forget(tx, name, seen, caller.actor)
        return Answer(SnapshotList(snapshots=snapshots.named(tx.db, tx.bank)))

    return change(ledger, bank, caller, do)


@routes.get("/v1/banks/{bank}/diff", responses=REFUSALS)
def diff_bank(bank: BankId, asked: Annotated[BankDiffQuery, Query()], ledger: TheLedger) -> BankDiff:
    """What changed between two moments, in the order of ids: what became active, what is so no more, what says or
    stands otherwise. New evidence alone is no change."""
    with ledger.read() as db:
        now = reads.known_seq(db, bank)
        since = snapshots.seq_of(db, bank, asked.since)
        until = now if asked.until is None else snapshots.seq_of(db, bank, asked.until)
        if not since <= until <= now:
            field = "since" if since > until else "until"
            raise changes.Invalid(
                field, f"from seq {since} to {until}: since comes first, and the bank is at seq {now}"
            )
        found, following = snapshots.changed(db, bank, since, until, asked.level, asked.after, asked.limit)
    return BankDiff(since=since, until=until, items=[_changed(*pair) for pair in found], next=following)


def _changed(before: Item | None, after: Item) -> ChangedItem:
    was, stands = before is not None and before.status == "active", after.status == "active"
    kind: Any = "added" if stands and not was else "gone" if was and not stands else "changed"
    return ChangedItem(change=kind, before=item_view(before) if before else None, after=item_view(after))


@routes.get("/v1/banks/{bank}/compare", responses=REFUSALS)
def compare_banks(bank: BankId, asked: Annotated[CompareQuery, Query()], ledger: TheLedger) -> BankComparison:
    """The active notes of two banks, compared by what they say about which problem: those that one of them lacks."""
    levels = snapshots.NOTES if asked.level is None else (asked.level,)
    with ledger.read() as db:
        for each in (bank, asked.other):
            reads.known_seq(db, each)
        found = compare(db, bank, asked.other, levels, asked.after, asked.limit)
    return BankComparison(
        bank=bank,
        other=asked.other,
        common=found.common,
        only_here=found.only_here,
        only_there=found.only_there,
        items=[OneSided(here=s.here, item=item_view(s.item), elsewhere=s.elsewhere) for s in found.sides],
        next=found.next,
    )


@routes.post("/v1/banks/{bank}:undo", response_model=UndoResult, responses=SEEN_REFUSALS)
def undo_act(bank: BankId, asked: Undo, caller: TheCaller, ledger: TheLedger) -> JSONResponse:
    """Undo what a person did: what the act changed goes back, what it added is retired, proposals that it decided are
    open again. It is refused (412) when any of it has been changed since. An undo can be undone by its own `seq`."""
    if asked.seq is None and not asked.dry_run:
        raise changes.Invalid("seq", "a real run takes the `seq` that a dry run answered with, or the audit log's")

    def do(tx: Transaction) -> Answer:
        act, done, reopened = undo.undo(tx, asked.seq, caller.actor)
        made = [ItemRef(id=i.id, version=i.version - asked.dry_run) for i in done]
        result = UndoResult(
            dry_run=asked.dry_run, seq=act.seq, actor=act.actor, action=act.action, items=made, reopened=reopened
        )
        if asked.dry_run:
            raise Dry(result)
        return Answer(result, tx.seq)

    return change(ledger, bank, caller, do)
