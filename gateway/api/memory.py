"""A run's memory through the gateway: the memory service's interface under the run's address.

`/v1/runs/{run}/memory...` is the bank's items, `/v1/runs/{run}/bank...` the bank as a whole. Bodies, preconditions,
idempotency keys and answers are passed on as they are; the memory service decides. Query parameters are declared here
all the same: those that nobody knows are refused, and the document has the others.
"""

# ruff: noqa: ARG001 -- arguments that a route declares and the memory service reads

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from pmd.gateway.api import examples
from pmd.gateway.api.deps import RunId
from pmd.gateway.api.forward import Forwarder
from pmd.gateway.api.history import recipe_of
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import Registry
from pmd.services.common.wire import Level, Slug

ItemId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:@-]{1,200}$", description="Id of the memory.")]
After = Annotated[str | None, Query(max_length=20_000, description="`next` of the page before.")]
Verb = Annotated[Literal["annotate", "split", "revert", "pin", "unpin", "ban", "restore"], Path()]

ON = "The body, `If-Match` and `Idempotency-Key` are those of the memory service; see docs/memory.md."

ROLLOUT = "`<step>:<rollout id>`; in a URL `#` is written `%23`."


def add_memory_routes(routes: APIRouter, registry: Registry, forward: Forwarder) -> None:
    """Routes under `/v1/runs/{run}` that the memory service answers."""

    async def bank_of(run: str) -> str:
        row = await run_in_threadpool(registry.run, run)
        if not Recipe.model_validate(recipe_of(row)).levels:
            raise HTTPException(404, f"run {run!r} has no memory (method {row['method']})")
        return f"/v1/banks/{run}"

    @routes.get("/v1/runs/{run}/memory", tags=["memory"], response_class=JSONResponse, responses=examples.MEMORY)
    async def list_memory(
        run: RunId,
        request: Request,
        level: Annotated[Level | None, Query(description="Only this level.")] = None,
        kind: Annotated[str | None, Query(description="attempt, strategy, lesson or behavior.")] = None,
        status: Annotated[str | None, Query(description="active unless given; any for all.")] = None,
        problem_id: Annotated[str | None, Query(max_length=128)] = None,
        held: Annotated[bool | None, Query(description="Pinned or edited by a person.")] = None,
        q: Annotated[str | None, Query(max_length=200, description="Beginnings of words.")] = None,
        sort: Annotated[str | None, Query(description="newest unless given, oldest or text.")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        after: After = None,
    ) -> Response:
        """What a run remembers."""
        return await forward.same("memory", f"{await bank_of(run)}/items", request)

    @routes.post(
        "/v1/runs/{run}/memory",
        status_code=201,
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
        responses=examples.CHANGED,
        openapi_extra=examples.ADD,
    )
    async def add_memory(run: RunId, request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items", request)

    @routes.post(
        "/v1/runs/{run}/memory:{action}",
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
        responses={201: {"description": "merged"}, **examples.CHANGED},
        openapi_extra=examples.CHANGE_MANY,
    )
    async def change_many(run: RunId, action: Literal["merge", "bulk"], request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items:{action}", request)

    @routes.post(
        "/v1/runs/{run}/memory/{item}:{verb}",
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
        responses=examples.CHANGED,
        openapi_extra=examples.ACT,
    )
    async def act_on_memory(run: RunId, item: ItemId, verb: Verb, request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}:{verb}", request)

    @routes.get("/v1/runs/{run}/memory/{item}", tags=["memory"], response_class=JSONResponse, responses=examples.ITEM)
    async def get_memory_item(run: RunId, item: ItemId, request: Request) -> Response:
        """One memory with its history."""
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}", request)

    @routes.patch(
        "/v1/runs/{run}/memory/{item}",
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
        responses=examples.CHANGED,
        openapi_extra=examples.EDIT,
    )
    async def edit_memory(run: RunId, item: ItemId, request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}", request)

    @routes.get(
        "/v1/runs/{run}/memory/{item}/{part}",
        tags=["memory"],
        response_class=JSONResponse,
        responses=examples.OF_BANK,
    )
    async def about_memory(
        run: RunId,
        item: ItemId,
        part: Literal["diff", "provenance", "utility"],
        request: Request,
        before: Annotated[int | None, Query(ge=1, description="diff: a version; the last but one if missing.")] = None,
        after: Annotated[int | None, Query(ge=1, description="diff: a version; the newest if missing.")] = None,
    ) -> Response:
        """Two versions compared, what it was made from and what used it, or what it is worth."""
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}/{part}", request)

    @routes.get("/v1/runs/{run}/bank", tags=["memory"], response_class=JSONResponse, responses=examples.OF_BANK)
    async def get_bank(run: RunId, request: Request) -> Response:
        """Size of a run's bank and its `seq`."""
        return await forward.same("memory", await bank_of(run), request)

    @routes.get("/v1/runs/{run}/bank/search", tags=["memory"], response_class=JSONResponse, responses=examples.FOUND)
    async def search_bank(
        run: RunId,
        request: Request,
        q: Annotated[str, Query(min_length=1, max_length=20_000, description="What to look for.")],
        level: Level = "insight",
        mode: Literal["hybrid", "text", "vector"] = "hybrid",
        alpha: Annotated[float | None, Query(ge=0.0, le=1.0, description="hybrid: weight of meaning.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> Response:
        """What a run remembers of the like, by meaning, by words, or both. POST takes many questions at once."""
        return await forward.same("memory", f"{await bank_of(run)}/search", request)

    @routes.post(
        "/v1/runs/{run}/bank/search",
        tags=["memory"],
        response_class=JSONResponse,
        responses=examples.FOUND,
        openapi_extra=examples.SEARCH,
    )
    async def search_bank_batch(run: RunId, request: Request) -> Response:
        """The same for many questions: `queries`, `level`, `mode`, `alpha`, `limit`."""
        return await forward.same("memory", f"{await bank_of(run)}/search", request)

    @routes.get("/v1/runs/{run}/bank/{part}", tags=["memory"], response_class=JSONResponse, responses=examples.OF_BANK)
    async def about_bank(
        run: RunId,
        part: Literal["proposals", "audit", "export"],
        request: Request,
        status: Annotated[str | None, Query(description="proposals: open unless given; any for all.")] = None,
        after: After = None,
        limit: Annotated[int | None, Query(ge=1, description="Of a page of proposals or of the audit log.")] = None,
        seq: Annotated[int | None, Query(ge=0, description="export: the bank as it was then.")] = None,
    ) -> Response:
        """The machine's wishes, who changed what, or the whole bank as JSON lines."""
        return await forward.same("memory", f"{await bank_of(run)}/{part}", request, streams=part == "export")

    @routes.post(
        "/v1/runs/{run}/bank:{action}",
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
        responses=examples.CHANGED,
        openapi_extra=examples.CHANGE_BANK,
    )
    async def change_bank(run: RunId, action: Literal["import", "rollback"], request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}:{action}", request, streams=action == "import")

    @routes.delete("/v1/runs/{run}/bank", tags=["memory"], status_code=204, responses=examples.OF_BANK)
    async def delete_bank(run: RunId, request: Request) -> Response:
        """Forget all that a run remembers, history included."""
        return await forward.same("memory", await bank_of(run), request)

    @routes.post(
        "/v1/runs/{run}/bank/proposals/{proposal}:{verdict}",
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
        responses=examples.CHANGED,
        openapi_extra=examples.DECIDE,
    )
    async def decide(run: RunId, proposal: ItemId, verdict: Literal["accept", "reject"], request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/proposals/{proposal}:{verdict}", request)

    @routes.get("/v1/contexts/{rollout}", tags=["memory"], response_class=JSONResponse, responses=examples.OF_BANK)
    async def explain_context(
        rollout: Annotated[str, Path(max_length=300, description=ROLLOUT, examples=["12:train-7#3"])],
        run: Annotated[Slug, Query(description="The run that it is a rollout of.")],
        request: Request,
    ) -> Response:
        """The exact teacher context of a rollout: items, versions, and why each was chosen."""
        await bank_of(run)
        return await forward.same("memory", f"/v1/contexts/{rollout}", request, {"bank": run})
