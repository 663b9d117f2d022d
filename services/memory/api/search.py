"""Searching a bank over HTTP: one question for people, a batch for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response

from pmd.services.common.app import known_query
from pmd.services.common.bank import FoundItem, SearchAnswer
from pmd.services.common.curation import SearchQuery, SearchRequest
from pmd.services.memory.api.deps import REFUSALS, BankId, TheLedger, TheSearch
from pmd.services.memory.index.index import Hit
from pmd.services.memory.index.search import within
from pmd.services.memory.ledger import UnknownBank, reads

PATIENCE_S = 20.0
"""Longest that a call waits for the index to catch up; what was done by then is kept."""
ALPHA = 0.5

routes = APIRouter(tags=["search"], dependencies=[Depends(known_query)], responses=REFUSALS)


def _weight(asked: SearchRequest) -> float:
    """The weight of meaning.

    Raises:
        HTTPException: 422 for an alpha that the mode would ignore.
    """
    if asked.mode == "hybrid":
        return ALPHA if asked.alpha is None else asked.alpha
    if asked.alpha is not None:
        raise HTTPException(422, [{"field": "alpha", "message": f"only for mode hybrid, not {asked.mode}"}])
    return 1.0 if asked.mode == "vector" else 0.0


def _shown(hit: Hit, item: Any) -> FoundItem:
    """A hit as it is answered; `item` is its row of `reads.shown`."""
    return FoundItem(
        id=item.id,
        level=item.level,
        kind=item.kind,
        text=item.text,
        problem_id=None if item.level == "behavior" else item.scope,
        version=item.version,
        score=round(hit.score, 6),
        similarity=None if hit.cosine is None else round(hit.cosine, 6),
    )


@routes.get("/v1/banks/{bank}/search", response_model=SearchAnswer)
def search_bank(bank: BankId, asked: Annotated[SearchQuery, Query()], ledger: TheLedger, search: TheSearch) -> Response:
    """The memories of a level that are most like `q`, by meaning, by words, or both."""
    batch = SearchRequest(queries=[asked.q], **asked.model_dump(exclude={"q"}))
    return search_bank_batch(bank, batch, ledger, search)


@routes.post("/v1/banks/{bank}/search", response_model=SearchAnswer)
def search_bank_batch(bank: BankId, asked: SearchRequest, ledger: TheLedger, search: TheSearch) -> Response:
    """The same for many questions at once."""
    found = search.find(
        bank, asked.level, asked.queries, alpha=_weight(asked), limit=asked.limit, check=within(PATIENCE_S)
    )
    # What is shown is the ledger's: an index that lags can't show what was banned or changed since.
    with ledger.read() as db:
        seq = reads.seq(db, bank)
        items = reads.shown(db, bank, list({hit.id for hits in found.hits for hit in hits}))
    if not seq:
        raise UnknownBank(bank)
    results = [[_shown(hit, items[hit.id]) for hit in hits if hit.id in items] for hits in found.hits]
    answer = SearchAnswer(results=results, seq=seq, index=found.index, degraded=found.degraded)
    # Not returned as it is: it would be validated a second time.
    return Response(answer.model_dump_json(), media_type="application/json")
