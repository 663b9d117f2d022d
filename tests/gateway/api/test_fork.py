"""A run goes on from a step of another, with weights and memory as they were then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from sqlalchemy import update

from pmd.gateway.api.app import create_app
from pmd.gateway.api.deps import Parts
from pmd.gateway.loop.state import PhaseName
from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.tables import PHASES
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.adapters import ADAPTER_OF
from pmd.services.common.app import create_service
from pmd.services.common.artifacts import MANIFEST, check_weights, local_path, read_bytes, write_bytes
from pmd.services.common.settings import ServiceSettings
from pmd.services.common.wire import Weights
from tests.gateway.api.conftest import edge
from tests.gateway.api.person import Tree, create
from tests.gateway.fakes import TOKEN


@pytest.fixture
def exported() -> list[str]:
    """Moments at which a bank was asked for."""
    return []


@pytest.fixture
def app(tmp_path: Path, woken: list[str], exported: list[str]) -> FastAPI:
    memory = create_service("memory", ServiceSettings(token=TOKEN), ready=dict)  # type: ignore[arg-type]

    @memory.get("/v1/banks/{bank}/export")
    async def export(bank: str, seq: str) -> Response:
        exported.append(f"{bank}@{seq}")
        return Response(json.dumps({"format": "pmd-bank", "version": 1, "bank": bank, "seq": int(seq)}) + "\n")

    @memory.post("/v1/banks/{bank}:import")
    async def imported(request: Request) -> dict[str, bool]:
        return {"dry_run": bool(await request.body())}

    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    return create_app(settings, wake=woken.append, transports=edge() | {"memory": httpx.ASGITransport(memory)})


def test_a_fork_has_weights_and_memory_of_the_step_and_says_whose(
    http: TestClient, finished: str, registry: Registry, exported: list[str], woken: list[str], tmp_path: Path
) -> None:
    woken.clear()
    answer = http.post(f"/v1/runs/{finished}:fork", json={"step": 2, "set": {"optimizer": {"lr": 0.5}}})
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert view["parent"] == {"run": finished, "step": 2, "version": 2, "seq": 2}
    assert (view["model"], view["step"], view["version"]) == (f"{finished}@2", 0, 0)
    assert (exported, woken) == ([f"{finished}@2"], [view["id"]])
    state, _ = registry.state(view["id"])
    assert state.recipe.optimizer.lr == 0.5
    assert state.recipe.schedule == registry.state(finished)[0].recipe.schedule
    parents = tmp_path / "state" / "runs" / finished / "weights" / "v0002" / "model.safetensors"
    own = check_weights(state.inputs.base) / "model.safetensors"
    assert own.read_bytes() == parents.read_bytes()
    assert state.inputs.start is not None
    assert json.loads(read_bytes(state.inputs.start.file).splitlines()[0])["bank"] == finished
    created = registry.events(view["id"])[0]
    assert (created.payload["parent"], created.payload["parent_step"]) == (finished, 2)
    shutil.rmtree(tmp_path / "state" / "runs" / finished)
    check_weights(state.inputs.base)  # a parent that goes takes nothing along


def test_a_fork_is_a_run_that_can_run(
    http: TestClient, recipe_tree: Tree, drive: Callable[..., int], exported: list[str]
) -> None:
    parent = create(http, recipe_tree(method="sdpo"))["id"]
    drive(parent)
    fork = http.post(f"/v1/runs/{parent}:fork", json={}).json()
    assert (fork["parent"]["step"], fork["parent"]["seq"], exported) == (3, None, []), "it remembers nothing"
    drive(fork["id"])
    assert http.get(f"/v1/runs/{fork['id']}").json()["status"] == "succeeded"


def test_weights_that_were_removed_are_named_and_so_are_those_that_are_there(
    http: TestClient, finished: str, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "state" / "runs" / finished / "weights" / "v0001")
    for step, cause in ((1, "its weights were removed (schedule.keep_weights)"), (9, "it has no such weights")):
        refused = http.post(f"/v1/runs/{finished}:fork", json={"step": step})
        assert (refused.status_code, refused.json()["title"]) == (
            409, f"run {finished!r} can't be forked at step {step}: {cause}; it can at 0, 2, 3",
        )  # fmt: skip


def test_a_fork_can_be_forked_where_recipes_may_name_few_folders(
    app: FastAPI, http: TestClient, finished: str, drive: Callable[..., int], exported: list[str], tmp_path: Path
) -> None:
    parts: Parts = app.state.parts
    listed = parts.settings.model_copy(update={"allowed_paths": str(tmp_path / "problems.jsonl")})
    app.state.parts = replace(parts, settings=listed)
    first = http.post(f"/v1/runs/{finished}:fork", json={"step": 2, "set": {"memory": {"start_from": None}}})
    assert first.status_code == 201, first.text
    drive(first.json()["id"])
    second = http.post(f"/v1/runs/{first.json()['id']}:fork", json={"step": 1})
    assert second.status_code == 201, second.text


def test_adapters_make_no_fork_and_it_is_said_what_does(http: TestClient, finished: str, registry: Registry) -> None:
    state, _ = registry.state(finished)
    trained = Weights.model_validate(state.records[2, PhaseName.PUBLISH].result["weights"])
    manifest = local_path(trained.uri) / MANIFEST
    said = json.loads(manifest.read_text()) | {ADAPTER_OF: state.inputs.base.model_dump()}
    sealed = write_bytes(f"file://{manifest}", json.dumps(said).encode())
    with registry.database.write() as db:
        (row,) = [row for row in registry.phases(finished) if (row["step"], row["name"]) == (2, "publish")]
        result = json.loads(row["result"])
        result["weights"]["sha256"] = sealed.sha256
        db.execute(update(PHASES).where(PHASES.c.key == row["key"]).values(result=json.dumps(result)))
    refused = http.post(f"/v1/runs/{finished}:fork", json={"step": 2})
    assert refused.status_code == 409, refused.text
    assert "its weights are an adapter (policy.lora)" in refused.json()["title"]
    assert f"`pmd export {finished} --step 2 --merge" in refused.json()["title"]
    assert http.post(f"/v1/runs/{finished}:fork", json={"step": 0}).status_code == 201, "the base is whole"


def test_what_makes_no_fork_is_refused_by_its_name(http: TestClient, finished: str) -> None:
    path = f"/v1/runs/{finished}:fork"
    for body, field in (
        ({"set": {"model": "/elsewhere"}}, "set.model"),
        ({"set": {"optimizer": {"lrr": 1}}}, "optimizer.lrr"),
        ({"stepp": 1}, "body.stepp"),
    ):
        refused = http.post(path, json=body)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert http.post("/v1/runs/nobody-1:fork", json={}).status_code == 404


def test_a_key_makes_one_fork(http: TestClient, finished: str) -> None:
    key = {"Idempotency-Key": "fork-1"}
    path = f"/v1/runs/{finished}:fork"
    first, again = (http.post(path, json={"step": 1}, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()["id"]) == (201, 200, again.json()["id"])
    assert http.post(path, json={"step": 2}, headers=key).status_code == 409


def test_an_empty_memory_can_be_asked_for(http: TestClient, finished: str, exported: list[str]) -> None:
    view = http.post(f"/v1/runs/{finished}:fork", json={"set": {"memory": {"start_from": None}}}).json()
    assert (view["parent"]["seq"], exported) == (None, [])
