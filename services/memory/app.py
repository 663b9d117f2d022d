"""The memory service: jobs `record`, `reflect`, `abstract`, `retrieve`, and the bank for people to read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query

from services.common.app import create_service
from services.common.jobs import JobContext, JobKind, JobRunner, JobStore
from services.common.strict import Strict
from services.common.wire import (
    AbstractRequest,
    Generator,
    Level,
    MemoryCounts,
    RecordRequest,
    ReflectRequest,
    RetrieveRequest,
)
from services.memory.abstract import abstract
from services.memory.context import retrieve
from services.memory.embed import EMBEDDER_ID
from services.memory.generator import ChatModel
from services.memory.ledger import Filter, Item, Ledger, Status, UnknownBank, reads
from services.memory.record import record
from services.memory.reflect import reflect
from services.memory.settings import MemoryServiceSettings

PAGE = 50


class ItemView(Strict):
    """A memory item as people see it."""

    id: str
    level: Level
    kind: str
    text: str
    problem_id: str | None
    """None for behaviors, which belong to no single problem."""
    status: Status
    version: int
    seq: int
    step: int
    """Training step that wrote or last confirmed it."""
    policy_version: int
    support: int | None = None
    """Problems that agree with a behavior."""
    successes: int | None = None
    """Passed attempts that follow it."""
    trials: int | None = None
    """Attempts that follow it."""
    sources: list[str] = []
    """Rollouts (insight) or insights (behavior) it was made from."""
    note: str | None = None
    """Why it is quarantined; feedback of a failed attempt."""

    @classmethod
    def of(cls, item: Item) -> ItemView:
        facts = item.facts
        attempt = item.level == "experience"
        return cls(
            id=item.id,
            level=item.level,
            kind=item.kind,
            text=item.text,
            problem_id=None if item.level == "behavior" else item.scope,
            status=item.status,
            version=item.version,
            seq=item.seq,
            step=item.step,
            policy_version=item.policy_version,
            support=facts.get("support"),
            successes=int(facts["passed"]) if attempt else facts.get("passes"),
            trials=1 if attempt else facts.get("trials"),
            sources=[facts["rollout_id"]] if attempt else facts.get("sources", []),
            note=facts.get("leak") or facts.get("feedback") or None,
        )


class ItemPage(Strict):
    """Items in order of id; pass `next` as `after` for the next page."""

    items: list[ItemView]
    next: str | None


class ItemDetail(Strict):
    """An item and all that it has been."""

    item: ItemView
    history: list[dict[str, Any]]


def create_app(settings: MemoryServiceSettings) -> FastAPI:
    """The service over the ledger that `settings` names."""
    ledger = Ledger(settings.ledger_url())
    token = settings.token.get_secret_value()

    def model(generator: Generator) -> ChatModel:
        return ChatModel(generator, settings.rollout_url, token)

    def run_reflect(request: ReflectRequest, job: JobContext) -> MemoryCounts:
        with model(request.generator) as chat:
            return reflect(ledger, chat, request, job)

    def run_abstract(request: AbstractRequest, job: JobContext) -> MemoryCounts:
        with model(request.generator) as chat:
            return abstract(ledger, chat, request, job)

    jobs = JobRunner(
        "memory",
        JobStore(settings.service_dir("memory") / "jobs.db"),
        {
            "record": JobKind(RecordRequest, partial(record, ledger)),
            "reflect": JobKind(ReflectRequest, run_reflect),
            "abstract": JobKind(AbstractRequest, run_abstract),
            "retrieve": JobKind(RetrieveRequest, partial(retrieve, ledger)),
        },
        workers=4,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.recover()
        yield
        jobs.close()

    def ready() -> dict[str, Any]:
        return {"profile": "embedded", "ledger": ledger.dialect, "index": "exact", "embedder": EMBEDDER_ID}

    app = create_service("memory", settings, ready=ready, lifespan=lifespan)
    app.include_router(jobs.router())

    @app.get("/v1/banks/{bank}", tags=["banks"])
    def get_bank(bank: str) -> MemoryCounts:
        """Size of a bank by level, and its `seq`."""
        try:
            return ledger.counts(bank)
        except UnknownBank as error:
            raise HTTPException(404, f"no bank {bank!r}; a bank appears with its run's first experience") from error

    @app.get("/v1/banks/{bank}/items", tags=["banks"])
    def list_items(
        bank: str,
        level: Level | None = None,
        status: Status | None = "active",
        q: Annotated[str | None, Query(max_length=200)] = None,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = PAGE,
    ) -> ItemPage:
        """Items of a bank; `q` filters by substring."""
        with ledger.read() as db:
            items, following = reads.page(
                db, bank, Filter(level=level, status=status, text=q), after=after, limit=limit
            )
        return ItemPage(items=[ItemView.of(i) for i in items], next=following)

    @app.get("/v1/banks/{bank}/items/{item_id}", tags=["banks"])
    def get_item(bank: str, item_id: str) -> ItemDetail:
        """One item with its history."""
        with ledger.read() as db:
            versions = reads.history(db, bank, item_id)
        if not versions:
            raise HTTPException(404, f"no item {item_id!r} in bank {bank!r}")
        return ItemDetail(item=ItemView.of(versions[-1][0]), history=[])

    @app.delete("/v1/banks/{bank}", tags=["banks"], status_code=204)
    def delete_bank(bank: str) -> None:
        """Forget a bank entirely, history included."""
        try:
            ledger.delete(bank)
        except UnknownBank as error:
            raise HTTPException(404, f"no bank {bank!r}") from error

    return app
