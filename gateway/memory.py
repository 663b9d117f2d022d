"""A run's memory through the gateway: the memory service's interface under the run's address.

`/v1/runs/{run}/memory...` is the bank's items, `/v1/runs/{run}/bank...` the bank as a whole. Bodies, preconditions,
idempotency keys and answers are passed on as they are; the memory service decides.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from gateway import api_examples as examples
from gateway.forward import Forwarder
from gateway.history import recipe_of
from gateway.recipe import Recipe
from gateway.registry import Registry
from services.common.app import known_query
from services.common.wire import Level, Slug

RunId = Annotated[Slug, Path(description="Id of the run.", examples=["pocket-1f0c2a9b"])]
ItemId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:@-]{1,200}$", description="Id of the memory.")]
Verb = Annotated[Literal["annotate", "split", "revert", "pin", "unpin", "ban", "restore"], Path()]

ON = "The body, `If-Match` and `Idempotency-Key` are those of the memory service; see docs/memory.md."

ROLLOUT = "`<step>:<rollout id>`; in a URL `#` is written `%23`."


def add_memory_routes(app: FastAPI, registry: Registry, forward: Forwarder) -> None:
    """Routes under `/v1/runs/{run}` that the memory service answers."""

    async def bank_of(run: str) -> str:
        row = await run_in_threadpool(registry.run, run)
        if not Recipe.model_validate(recipe_of(row)).levels:
            raise HTTPException(404, f"run {run!r} has no memory (method {row['method']})")
        return f"/v1/banks/{run}"

    @app.get("/v1/runs/{run}/memory", tags=["memory"], response_class=JSONResponse, responses=examples.MEMORY)
    async def list_memory(
        run: RunId,
        request: Request,
        level: Annotated[Level | None, Query(description="Only this level.")] = None,  # noqa: ARG001 -- documents
        q: Annotated[str | None, Query(max_length=200, description="Beginnings of words.")] = None,  # noqa: ARG001
        limit: Annotated[int, Query(ge=1, le=500)] = 50,  # noqa: ARG001
        after: Annotated[str | None, Query(max_length=20_000, description="`next` of a page.")] = None,  # noqa: ARG001
    ) -> Response:
        """What a run remembers; more filters are `kind`, `status`, `problem_id`, `held` and `sort`."""
        return await forward.same("memory", f"{await bank_of(run)}/items", request)

    @app.post("/v1/runs/{run}/memory", tags=["memory"], response_class=JSONResponse, description=ON)
    async def add_memory(run: RunId, request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items", request)

    @app.post("/v1/runs/{run}/memory:{action}", tags=["memory"], response_class=JSONResponse, description=ON)
    async def change_many(run: RunId, action: Literal["merge", "bulk"], request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items:{action}", request)

    @app.post("/v1/runs/{run}/memory/{item}:{verb}", tags=["memory"], response_class=JSONResponse, description=ON)
    async def act_on_memory(run: RunId, item: ItemId, verb: Verb, request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}:{verb}", request)

    @app.get("/v1/runs/{run}/memory/{item}", tags=["memory"], response_class=JSONResponse, responses=examples.ITEM)
    async def get_memory_item(run: RunId, item: ItemId, request: Request) -> Response:
        """One memory with its history."""
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}", request)

    @app.patch("/v1/runs/{run}/memory/{item}", tags=["memory"], response_class=JSONResponse, description=ON)
    async def edit_memory(run: RunId, item: ItemId, request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}", request)

    @app.get("/v1/runs/{run}/memory/{item}/{part}", tags=["memory"], response_class=JSONResponse)
    async def about_memory(
        run: RunId, item: ItemId, part: Literal["diff", "provenance", "utility"], request: Request
    ) -> Response:
        """Two versions compared, what it was made from and what used it, or what it is worth."""
        return await forward.same("memory", f"{await bank_of(run)}/items/{item}/{part}", request)

    @app.get("/v1/runs/{run}/bank", tags=["memory"], response_class=JSONResponse)
    async def get_bank(run: RunId, request: Request) -> Response:
        """Size of a run's bank and its `seq`."""
        return await forward.same("memory", await bank_of(run), request)

    @app.get("/v1/runs/{run}/bank/search", tags=["memory"], response_class=JSONResponse, responses=examples.FOUND)
    async def search_bank(
        run: RunId,
        request: Request,
        q: Annotated[str, Query(min_length=1, max_length=20_000, description="What to look for.")],  # noqa: ARG001
        level: Level = "insight",  # noqa: ARG001 -- documents
        mode: Literal["hybrid", "text", "vector"] = "hybrid",  # noqa: ARG001
        alpha: Annotated[float | None, Query(ge=0.0, le=1.0, description="hybrid: weight of meaning.")] = None,  # noqa: ARG001
        limit: Annotated[int, Query(ge=1, le=100)] = 10,  # noqa: ARG001
    ) -> Response:
        """What a run remembers of the like, by meaning, by words, or both. POST takes many questions at once."""
        return await forward.same("memory", f"{await bank_of(run)}/search", request)

    @app.post("/v1/runs/{run}/bank/search", tags=["memory"], response_class=JSONResponse, responses=examples.FOUND)
    async def search_bank_batch(run: RunId, request: Request) -> Response:
        """The same for many questions: `queries`, `level`, `mode`, `alpha`, `limit`."""
        return await forward.same("memory", f"{await bank_of(run)}/search", request)

    @app.get("/v1/runs/{run}/bank/{part}", tags=["memory"], response_class=JSONResponse)
    async def about_bank(run: RunId, part: Literal["proposals", "audit", "export"], request: Request) -> Response:
        """The machine's wishes, who changed what, or the whole bank as JSON lines."""
        return await forward.same("memory", f"{await bank_of(run)}/{part}", request, streams=part == "export")

    @app.post("/v1/runs/{run}/bank:{action}", tags=["memory"], response_class=JSONResponse, description=ON)
    async def change_bank(run: RunId, action: Literal["import", "rollback"], request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}:{action}", request, streams=action == "import")

    @app.delete("/v1/runs/{run}/bank", tags=["memory"], status_code=204)
    async def delete_bank(run: RunId, request: Request) -> Response:
        """Forget all that a run remembers, history included."""
        return await forward.same("memory", await bank_of(run), request)

    @app.post(
        "/v1/runs/{run}/bank/proposals/{proposal}:{verdict}",
        tags=["memory"],
        response_class=JSONResponse,
        description=ON,
    )
    async def decide(run: RunId, proposal: ItemId, verdict: Literal["accept", "reject"], request: Request) -> Response:
        return await forward.same("memory", f"{await bank_of(run)}/proposals/{proposal}:{verdict}", request)

    @app.get(
        "/v1/contexts/{rollout}", tags=["memory"], response_class=JSONResponse, dependencies=[Depends(known_query)]
    )
    async def explain_context(
        rollout: Annotated[str, Path(max_length=300, description=ROLLOUT, examples=["12:train-7#3"])],
        run: Annotated[Slug, Query(description="The run that it is a rollout of.")],
        request: Request,
    ) -> Response:
        """The exact teacher context of a rollout: items, versions, and why each was chosen."""
        await bank_of(run)
        return await forward.same("memory", f"/v1/contexts/{rollout}", request, {"bank": run})
