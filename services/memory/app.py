"""The memory service: jobs `import`, `record`, `reflect`, `abstract`, `retrieve`, and the bank for people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from pmd.services.common.app import NotReady, create_service
from pmd.services.common.holdings import holdings
from pmd.services.common.jobs import JobContext, JobKind
from pmd.services.common.jobstore import JobStore
from pmd.services.common.requests import (
    AbstractRequest,
    Generator,
    ImportRequest,
    RecordRequest,
    ReflectRequest,
    RetrieveRequest,
    WriteResult,
)
from pmd.services.common.runner import JobRunner
from pmd.services.common.sql import Busy
from pmd.services.memory.api import curate, explain, moments, read, review, why
from pmd.services.memory.api import search as find
from pmd.services.memory.api.caller import explain_refusals
from pmd.services.memory.curate.start import start
from pmd.services.memory.index.search import open_search
from pmd.services.memory.ledger import Ledger
from pmd.services.memory.retrieve.contexts import retrieve
from pmd.services.memory.settings import MemoryServiceSettings
from pmd.services.memory.write.abstract import abstract
from pmd.services.memory.write.generator import ChatModel
from pmd.services.memory.write.judge import judge
from pmd.services.memory.write.record import record
from pmd.services.memory.write.reflect import reflect


def create_app(settings: MemoryServiceSettings) -> FastAPI:
    """The service over the ledger that `settings` names."""
    ledger = Ledger(settings.ledger_url())
    search = open_search(ledger, settings)
    tokens = settings.tokens()

    def model(generator: Generator) -> ChatModel:
        if generator.base_url is not None:
            settings.allowed().check_url(generator.base_url)
        return ChatModel(generator, settings.rollout_url, tokens, settings.memory_generator_key.get_secret_value())

    def run_reflect(request: ReflectRequest, job: JobContext) -> WriteResult:
        with model(request.generator) as chat:
            result = reflect(ledger, chat, request, job)
            if request.contradictions == "words":
                return result
            judged = judge(ledger, search.vectors, chat, request, job)
            return result.model_copy(update={"judged": judged})

    def run_abstract(request: AbstractRequest, job: JobContext) -> WriteResult:
        with model(request.generator) as chat:
            return abstract(ledger, search.vectors, chat, request, job)

    jobs = JobRunner(
        "memory",
        JobStore("memory", settings.jobs_database("memory", "jobs.db")),
        {
            "import": JobKind(ImportRequest, partial(start, ledger)),
            "record": JobKind(RecordRequest, partial(record, ledger)),
            "reflect": JobKind(ReflectRequest, run_reflect),
            "abstract": JobKind(AbstractRequest, run_abstract),
            "retrieve": JobKind(RetrieveRequest, partial(retrieve, ledger, search)),
        },
        workers=4,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        search.start()
        jobs.recover()
        yield
        jobs.close()
        search.close()

    def ready() -> dict[str, Any]:
        try:
            ledger.ping()
        except Busy as away:
            raise NotReady(f"the ledger is out of reach: {away}") from away
        return {"profile": settings.profile(), "ledger": ledger.dialect, **search.status()}

    app = create_service("memory", settings, ready=ready, lifespan=lifespan)
    app.state.ledger, app.state.search = ledger, search
    for routes in (
        jobs.router(),
        holdings(release=search.release),
        read.routes,
        curate.routes,
        find.routes,
        explain.routes,
        moments.routes,
        review.routes,
        why.routes,
    ):
        app.include_router(routes)
    explain_refusals(app)
    return app
