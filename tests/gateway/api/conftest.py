"""The public API over a real registry; the services behind it are small ones at the edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient

from pmd.gateway.api.app import create_app
from pmd.gateway.registry.registry import Registry
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.app import create_service
from pmd.services.common.settings import ServiceSettings
from tests.gateway.api.person import AUTH, Tree, create
from tests.gateway.fakes import TOKEN


def edge() -> dict[str, httpx.AsyncBaseTransport]:
    """A rollout, a memory and a verifier service that answer what the gateway passes on; the trainer is away."""
    settings = ServiceSettings(token=TOKEN)  # type: ignore[arg-type]
    rollout = create_service("rollout", settings, ready=lambda: {"engine": "fake"})
    memory = create_service("memory", settings, ready=dict)

    @rollout.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(iter(["data: {}\n\n", "data: [DONE]\n\n"]), media_type="text/event-stream")
        return {"model": body["model"], "choices": []}

    @rollout.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": []}

    @memory.get("/v1/banks/{bank}/items")
    async def items(bank: str, level: str | None = None, kind: str = "behavior", limit: int = 50) -> dict[str, Any]:
        evidence = [{"support": None, "successes": passed, "trials": 4} for passed in (1, 0, 4, 2, 4)]
        texts = [f"{kind} of {bank}, {each['successes']} of 4" for each in evidence]
        rest = {"problem_id": None, "status": "active", "version": 1, "seq": 1, "step": 1, "policy_version": 0}
        about = {"id": "i", "level": level, "kind": kind, **rest}
        found = [about | {"text": text, **each} for text, each in zip(texts, evidence, strict=True)]
        return {"items": found[:limit], "next": None}

    @memory.patch("/v1/banks/{bank}/items/{item}")
    async def edit(bank: str, item: str, request: Request) -> Any:
        seen = {name: request.headers.get(name) for name in ("if-match", "idempotency-key", "x-pmd-actor")}
        return JSONResponse({"id": item, "body": await request.json(), **seen}, 412, headers={"ETag": '"7"'})

    @memory.get("/v1/contexts/{rollout}")
    async def context(rollout: str, bank: str) -> dict[str, Any]:
        return {"rollout": rollout, "bank": bank}

    @memory.get("/v1/banks/{bank}/items/{item}")
    async def item(bank: str, item: str) -> dict[str, Any]:
        return {"item": {"id": item}, "history": []}

    verifier = create_service("verifier", settings, ready=dict)

    @verifier.post("/v1/verify")
    async def verify(request: Request) -> Any:
        items = (await request.json())["items"]
        if len(items) > 2:
            return JSONResponse({"title": "too much is under way"}, 429, headers={"Retry-After": "3"})
        return {"verdicts": [{"outcome": "passed"}] * len(items)} if items else JSONResponse({"title": "no items"}, 422)

    @verifier.post("/v1/reverify")
    async def reverify(request: Request) -> Any:
        return await request.json()

    @verifier.post("/v1/specs:validate")
    async def validate_specs(request: Request) -> Any:
        specs = (await request.json())["specs"]
        if any(spec["kind"] == "unreadable" for spec in specs):  # nested too deep, say
            return JSONResponse({"title": "There was an error parsing the body"}, 400)
        refused = [n for n, spec in enumerate(specs) if spec["kind"] != "exact"]
        errors = [{"field": "kind", "message": "unknown kind"}]
        return {"refused": [{"index": n, "errors": errors} for n in refused]}

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    return {
        "rollout": httpx.ASGITransport(rollout),
        "memory": httpx.ASGITransport(memory),
        "verifier": httpx.ASGITransport(verifier),
        "trainer": httpx.MockTransport(away),
    }


@pytest.fixture
def woken() -> list[str]:
    return []


@pytest.fixture
def app(tmp_path: Path, woken: list[str]) -> FastAPI:
    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    return create_app(settings, wake=woken.append, transports=edge())


@pytest.fixture
def registry(app: FastAPI) -> Registry:
    return app.state.parts.registry


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, headers=AUTH) as client:
        yield client


@pytest.fixture
def finished(http: TestClient, recipe_tree: Tree, drive: Callable[..., int]) -> str:
    """A run with the lead gate that has succeeded."""
    run = create(http, recipe_tree(teacher={"lead_gate": True}))["id"]
    drive(run)
    return str(run)
