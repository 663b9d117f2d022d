"""A run's memory through the gateway: the memory service's interface under the run's address.

`/v1/runs/{run}/memory...` is the bank's items, `/v1/runs/{run}/bank...` the bank as a whole. The memory service
decides; what it takes and answers is the contract in `services.common.bank` and `services.common.curation`.

Invariant: a bank that a run still reads is not deleted by a slip, and not without a line in the run's log.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from pmd.gateway.api import examples
from pmd.gateway.api.deps import RunId, Runs, Services
from pmd.gateway.api.history import recipe_of
from pmd.gateway.api.table import FILE, Row, add_rows
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.recipes.start import bare_model
from pmd.gateway.registry.status import FINAL
from pmd.gateway.views import RunStatus
from pmd.services.common.app import known_query
from pmd.services.common.bank import (
    AuditPage,
    BankComparison,
    BankDiff,
    BulkResult,
    ContextView,
    Diff,
    ImportResult,
    ItemDetail,
    ItemId,
    ItemPage,
    ItemView,
    ProposalPage,
    ProposalView,
    Provenance,
    ReviewPage,
    RollbackResult,
    SearchAnswer,
    SnapshotList,
    SnapshotView,
    UndoResult,
    Utility,
    Why,
)
from pmd.services.common.curation import (
    ACTS,
    JSON_LINES,
    Actor,
    Annotation,
    AuditQuery,
    BankDiffQuery,
    Bulk,
    CompareQuery,
    DiffQuery,
    Edit,
    ExportQuery,
    IdempotencyKey,
    IfMatch,
    IfMatchOrNone,
    ImportQuery,
    ItemQuery,
    Merge,
    NewItem,
    NewSnapshot,
    ProposalQuery,
    Reason,
    Revert,
    ReviewQuery,
    Rollback,
    SearchQuery,
    SearchRequest,
    SnapshotName,
    Split,
    Undo,
    WhyQuery,
)
from pmd.services.common.requests import MemoryCounts
from pmd.services.common.wire import Slug

ROLLOUT = "`<step>:<rollout id>`; in a URL `#` is written `%23`."

MEMORY, ITEMS_AT = "/v1/runs/{run}/memory", "/v1/banks/{run}/items"
ITEM, ITEM_AT = f"{MEMORY}/{{item}}", f"{ITEMS_AT}/{{item}}"
BANK, AT = "/v1/runs/{run}/bank", "/v1/banks/{run}"
PROPOSAL, PROPOSAL_AT = f"{BANK}/proposals/{{proposal}}", f"{AT}/proposals/{{proposal}}"
SNAPSHOT, SNAPSHOT_AT = f"{BANK}/snapshots/{{name}}", f"{AT}/snapshots/{{name}}"

REFUSES = (404, 409, 412)
SEEN_REFUSES = (*REFUSES, 428)

FROM = "What it was made from, what was made from it, and which contexts used it at which version."
WORTH = (
    "Reward with a memory less reward when chance held it out, with an interval; and the reward of attempts that read"
    " no memory."
)
WHY = (
    "Whether the contexts of a step show a memory, problem by problem, and why not: too long, not believed,"
    " contradicted, giving the answer away, held out by chance, not found, or put away by then."
)
REVIEW = "Memories by their measured effect, those that seem to do harm first, each with its open proposals."
SNAPSHOTS = "The moments that people have named. Wherever a `seq` is asked for, a name will do."
CHANGED = "What changed between two moments: what became active, what is so no more, what says or stands otherwise."
SIDE_BY_SIDE = "The active notes of two runs, compared by what they say about which problem: those that one lacks."
NAME = "Give a moment of the bank a name: as it is, or as it was at `seq`. Nothing is copied."
UNNAME = "Delete a name; what it stood for stays in the history. Answers with the names that are left."
UNDO = (
    "Undo what a person did: what the act changed goes back, what it added is retired, proposals that it decided are"
    " open again. 412 when any of it has been changed since. A dry run names your last act; the real call takes its"
    " `seq`. An undo can be undone by its own."
)
FIND = "What a run remembers of the like, by meaning, by words, or both. POST takes many questions at once."
LISTED = "What the machine would change of memories that people hold, newest first."
EXPORT = (
    "The whole bank as JSON lines: as it is, or as it was at `seq`, a number or a snapshot. Its problems come with"
    " their verifiers, hidden tests included."
)
ADD = "Add a note by hand."
EDIT = (
    "Reword a memory, and the same thought at other problems along with it (`also`). From then on the machine proposes"
    " changes of it and makes none."
)
REMARK = "Attach a remark; the memory and its version stay."
SPLIT = "Turn one note into several; it is superseded by them."
REVERT = "Bring back the wording of an earlier version, as a new one."
MERGE = (
    "Make several notes one; `items` names the versions that were seen. Insights of different problems become a"
    " behavior."
)
MANY = "Pin, unpin, ban or restore many, all or none. First a dry run with `where`, then `items` from it."
ACCEPT = "Do what the machine proposes; `If-Match` names the version of its memory."
REJECT = "Decline; the same proposal is not made again."
ROLLBACK = (
    "Bring every memory back to what it was at `seq`, a number or a snapshot. History and bans stay. `If-Match`, the"
    " ETag of the bank, is needed unless it is a dry run."
)
IMPORT = (
    "Add what an export holds, in one transaction; a bad line refuses it all and is named. A dry run says what would be"
    " added."
)

READS = (
    Row("list_memory", "GET", MEMORY, ITEMS_AT, "What a run remembers.", ItemPage, ItemQuery),
    Row("get_memory_item", "GET", ITEM, ITEM_AT, "One memory with its history. Its ETag is its version.", ItemDetail),
    Row("diff_memory", "GET", f"{ITEM}/diff", f"{ITEM_AT}/diff", "Two versions compared.", Diff, DiffQuery),
    Row("memory_provenance", "GET", f"{ITEM}/provenance", f"{ITEM_AT}/provenance", FROM, Provenance),
    Row("memory_utility", "GET", f"{ITEM}/utility", f"{ITEM_AT}/utility", WORTH, Utility),
    Row("why_memory", "GET", f"{ITEM}/why", f"{ITEM_AT}/why", WHY, Why, WhyQuery),
    Row("get_bank", "GET", BANK, AT, "Size of a run's bank and its `seq`, which is also its ETag.", MemoryCounts),
    Row("search_bank", "GET", f"{BANK}/search", f"{AT}/search", FIND, SearchAnswer, SearchQuery),
    Row(
        "search_bank_batch",
        "POST",
        f"{BANK}/search",
        f"{AT}/search",
        "The same for many questions at once.",
        SearchAnswer,
        body=SearchRequest,
        example=examples.SEARCH,
    ),
    Row("review_memory", "GET", f"{BANK}/review", f"{AT}/review", REVIEW, ReviewPage, ReviewQuery),
    Row("list_proposals", "GET", f"{BANK}/proposals", f"{AT}/proposals", LISTED, ProposalPage, ProposalQuery),
    Row("audit_bank", "GET", f"{BANK}/audit", f"{AT}/audit", "Who changed what, oldest first.", AuditPage, AuditQuery),
    Row("list_snapshots", "GET", f"{BANK}/snapshots", f"{AT}/snapshots", SNAPSHOTS, SnapshotList),
    Row("get_snapshot", "GET", SNAPSHOT, SNAPSHOT_AT, "One snapshot. Its ETag is its `seq`.", SnapshotView),
    Row("diff_bank", "GET", f"{BANK}/diff", f"{AT}/diff", CHANGED, BankDiff, BankDiffQuery),
    Row("compare_banks", "GET", f"{BANK}/compare", f"{AT}/compare", SIDE_BY_SIDE, BankComparison, CompareQuery),
)


def _change(
    name: str,
    method: str,
    path: str,
    target: str,
    summary: str,
    answer: Any,
    body: Any = None,
    *,
    seen: Any = None,
    status: int = 200,
    example: Any = None,
    query: type | None = None,
) -> Row:
    """A row that changes a bank; `seen` is its `If-Match`, where it takes one."""
    headers = {"idempotency_key": IdempotencyKey, "actor": Actor} | ({"if_match": seen} if seen else {})
    refuses = SEEN_REFUSES if seen else REFUSES
    return Row(name, method, path, target, summary, answer, query, body, headers, status, refuses, example)


WRITES = (
    _change("add_memory", "POST", MEMORY, ITEMS_AT, ADD, ItemView, NewItem, status=201, example=examples.ADD),
    _change("edit_memory", "PATCH", ITEM, ITEM_AT, EDIT, ItemView, Edit, seen=IfMatch, example=examples.EDIT),
    _change("annotate_memory", "POST", f"{ITEM}:annotate", f"{ITEM_AT}:annotate", REMARK, ItemView, Annotation),
    _change("split_memory", "POST", f"{ITEM}:split", f"{ITEM_AT}:split", SPLIT, list[ItemView], Split, seen=IfMatch),
    _change("revert_memory", "POST", f"{ITEM}:revert", f"{ITEM_AT}:revert", REVERT, ItemView, Revert, seen=IfMatch),
    *(
        _change(
            f"{verb}_memory",
            "POST",
            f"{ITEM}:{verb}",
            f"{ITEM_AT}:{verb}",
            told,
            ItemView,
            Annotated[Reason | None, Body()],
            seen=IfMatch,
            example=examples.ACT,
        )
        for verb, told in ACTS.items()
    ),
    _change("merge_memories", "POST", f"{MEMORY}:merge", f"{ITEMS_AT}:merge", MERGE, ItemView, Merge, status=201),
    _change(
        "change_memories", "POST", f"{MEMORY}:bulk", f"{ITEMS_AT}:bulk", MANY, BulkResult, Bulk, example=examples.BULK
    ),
    _change("accept_proposal", "POST", f"{PROPOSAL}:accept", f"{PROPOSAL_AT}:accept", ACCEPT, ItemView, seen=IfMatch),
    _change("reject_proposal", "POST", f"{PROPOSAL}:reject", f"{PROPOSAL_AT}:reject", REJECT, ProposalView),
    _change(
        "rollback_bank",
        "POST",
        f"{BANK}:rollback",
        f"{AT}:rollback",
        ROLLBACK,
        RollbackResult,
        Rollback,
        seen=IfMatchOrNone,
        example=examples.ROLLBACK,
    ),
    _change("undo_act", "POST", f"{BANK}:undo", f"{AT}:undo", UNDO, UndoResult, Undo, example=examples.UNDO),
    _change(
        "name_snapshot",
        "POST",
        f"{BANK}/snapshots",
        f"{AT}/snapshots",
        NAME,
        SnapshotView,
        NewSnapshot,
        status=201,
        example=examples.SNAPSHOT,
    ),
    _change("delete_snapshot", "DELETE", SNAPSHOT, SNAPSHOT_AT, UNNAME, SnapshotList, seen=IfMatch),
    _change("import_bank", "POST", f"{BANK}:import", f"{AT}:import", IMPORT, ImportResult, FILE, query=ImportQuery),
)


async def remembers(run: str, registry: Runs) -> RunStatus:
    """The status of a run that has a memory; 404 for others."""
    row = await run_in_threadpool(registry.run, run)
    if not Recipe.model_validate(recipe_of(row)).levels:
        raise HTTPException(404, f"run {run!r} has no memory (method {row['method']})")
    return RunStatus(row["status"])


async def _remembers(run: RunId, registry: Runs) -> RunStatus:
    return await remembers(run, registry)


routes = APIRouter(dependencies=[Depends(known_query)])

add_rows(
    routes,
    "memory",
    (*READS, *WRITES),
    {
        "run": RunId,
        "item": Annotated[ItemId, Path(description="Id of the memory.")],
        "proposal": Annotated[ItemId, Path(description="Id of the proposal.")],
        "name": Annotated[SnapshotName, Path(description="Name of the snapshot.")],
    },
    Depends(_remembers),
)


@routes.get(
    f"{BANK}/export",
    tags=["memory"],
    description=EXPORT,
    response_class=Response,
    responses={**examples.refusals(404), 200: {"description": "JSON lines", "content": JSON_LINES}},
    dependencies=[Depends(_remembers)],
)
async def export_bank(
    run: RunId,
    request: Request,
    registry: Runs,
    services: Services,
    asked: Annotated[ExportQuery, Query()],  # noqa: ARG001 -- passed on
) -> Response:
    answer = await services.same("memory", f"{AT.format(run=run)}/export", request, streams=True)
    if isinstance(answer, StreamingResponse) and answer.status_code == 200:
        row = await run_in_threadpool(registry.run, run)
        answer.body_iterator = _with_model(answer.body_iterator, bare_model(json.loads(row["inputs"]).get("model")))
    return answer


async def _with_model(chunks: AsyncIterable[Any], model: str | None) -> AsyncIterator[bytes]:
    """An export whose first line names the model of its run, which the memory service does not know."""
    head: bytes | None = b""
    async for chunk in chunks:
        if head is None:
            yield chunk
            continue
        head += chunk
        first, end, rest = head.partition(b"\n")
        if end:
            yield json.dumps(json.loads(first) | {"model": model}).encode() + end + rest
            head = None


@routes.delete(BANK, tags=["memory"], status_code=204, responses=examples.refusals(*SEEN_REFUSES))
async def delete_bank(
    run: RunId,
    request: Request,
    registry: Runs,
    services: Services,
    status: Annotated[RunStatus, Depends(_remembers)],
    if_match: IfMatch,  # noqa: ARG001 -- passed on
    actor: Actor = None,
    force: Annotated[bool, Query(description="Also when the run may still read it.")] = False,
) -> Response:
    """Forget all that a run remembers, history included. `If-Match` is the ETag of the bank. A run that may go on is
    left its memory unless `force` is set; it would go on with an empty one."""
    if status not in FINAL and not force:
        raise HTTPException(409, f"run {run!r} is {status} and may still read its memory; cancel it, or set force=true")
    answer = await services.same("memory", AT.format(run=run), request, {})
    if answer.status_code == 204:
        told = {"actor": f"person:{actor}" if actor else "person", "status": str(status)}
        await run_in_threadpool(registry.note, run, "memory.deleted", told)
    return answer


@routes.get("/v1/contexts/{rollout}", tags=["memory"], response_model=ContextView, responses=examples.refusals(404))
async def explain_context(
    rollout: Annotated[str, Path(max_length=300, description=ROLLOUT, examples=["12:train-7#3"])],
    run: Annotated[Slug, Query(description="The run that it is a rollout of.")],
    request: Request,
    registry: Runs,
    services: Services,
) -> Response:
    """The exact teacher context of a rollout: items, versions, and why each was chosen."""
    await remembers(run, registry)
    return await services.same("memory", f"/v1/contexts/{rollout}", request, {"bank": run})
