"""Searching a bank over HTTP: one question for people, a batch for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic import Field

from pmd.services.common.app import known_query
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Level
from pmd.services.memory.api.read import Bank
from pmd.services.memory.index.index import CANDIDATES, Hit, Mode
from pmd.services.memory.index.search import Search, within
from pmd.services.memory.ledger import Ledger, UnknownBank, reads

PATIENCE_S = 20.0
"""Longest that a call waits for the index to catch up; what was done by then is kept."""
ALPHA = 0.5
QUESTION_CHARS = 20_000


class SearchRequest(Strict):
    """A batch of questions to one level of a bank."""

    queries: list[Annotated[str, Field(min_length=1, max_length=QUESTION_CHARS)]] = Field(min_length=1, max_length=256)
    """Texts to look for; the first 2,000 characters of each count."""
    level: Level = "insight"
    mode: Mode = "hybrid"
    """vector: by meaning (cosine). text: by words (BM25). hybrid: both."""
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    """hybrid: weight of meaning against words, 0.5 when absent."""
    limit: int = Field(default=10, ge=1, le=CANDIDATES)
    """Most items for each question."""

    def weight(self) -> float:
        """The weight of meaning.

        Raises:
            HTTPException: 422 for an alpha that the mode would ignore.
        """
        if self.mode == "hybrid":
            return ALPHA if self.alpha is None else self.alpha
        if self.alpha is not None:
            raise HTTPException(422, [{"field": "alpha", "message": f"only for mode hybrid, not {self.mode}"}])
        return 1.0 if self.mode == "vector" else 0.0


class FoundItem(Strict):
    """A memory that was found."""

    id: str
    level: Level
    kind: str
    text: str
    problem_id: str | None
    """None for behaviors, which belong to no single problem."""
    version: int
    score: float
    """Fused score, relative to the other answers of the same question: 1 is the best that can be."""
    similarity: float | None
    """Cosine to the question; None for mode text, which embeds no question."""


class SearchAnswer(Strict):
    """What was found, in the order of the questions."""

    results: list[list[FoundItem]]
    seq: int
    """The bank's `seq` when it was searched."""
    index: str
    """The index that answered."""
    degraded: bool
    """The configured index is out of reach, and the embedded one answered in its place."""


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


def search_router(ledger: Ledger, search: Search) -> APIRouter:
    """The routes over `search`."""
    router = APIRouter(
        tags=["search"],
        dependencies=[Depends(known_query)],
        responses={404: {"description": "no such bank"}, 503: {"description": "try again"}},
    )

    def answer(bank: str, request: SearchRequest) -> Response:
        alpha = request.weight()
        found = search.find(
            bank, request.level, request.queries, alpha=alpha, limit=request.limit, check=within(PATIENCE_S)
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

    @router.get("/v1/banks/{bank}/search", response_model=SearchAnswer)
    def search_bank(
        bank: Bank,
        q: Annotated[str, Query(min_length=1, max_length=QUESTION_CHARS, description="What to look for.")],
        level: Level = "insight",
        mode: Mode = "hybrid",
        alpha: Annotated[float | None, Query(ge=0.0, le=1.0)] = None,
        limit: Annotated[int, Query(ge=1, le=CANDIDATES)] = 10,
    ) -> Response:
        """The memories of a level that are most like `q`, by meaning, by words, or both."""
        return answer(bank, SearchRequest(queries=[q], level=level, mode=mode, alpha=alpha, limit=limit))

    @router.post("/v1/banks/{bank}/search", response_model=SearchAnswer)
    def search_bank_batch(bank: Bank, request: SearchRequest) -> Response:
        """The same for many questions at once."""
        return answer(bank, request)

    return router
