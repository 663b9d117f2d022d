"""What routes are given: ledger, search and the names in an address, as `Annotated` aliases."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from pmd.services.common.bank import ItemId
from pmd.services.common.wire import Slug
from pmd.services.memory.index.search import Search
from pmd.services.memory.ledger import Ledger

BankId = Annotated[Slug, Path(description="Id of the bank; a run's bank has the run's id.")]
InPath = Annotated[ItemId, Path(description="Id of the item.")]
OfProposal = Annotated[ItemId, Path(description="Id of the proposal.")]

REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"description": "no such bank or item"},
    503: {"description": "the ledger is busy or out of reach; see Retry-After"},
}
CHANGE_REFUSALS = REFUSALS | {
    409: {"description": "the bank's state forbids it, or the Idempotency-Key names another request"},
}
SEEN_REFUSALS = CHANGE_REFUSALS | {
    412: {"description": "the item has moved on; the answer holds its current version"},
    428: {"description": "If-Match is missing"},
}


async def _ledger(request: Request) -> Ledger:
    ledger: Ledger = request.app.state.ledger
    return ledger


async def _search(request: Request) -> Search:
    search: Search = request.app.state.search
    return search


TheLedger = Annotated[Ledger, Depends(_ledger)]
TheSearch = Annotated[Search, Depends(_search)]
