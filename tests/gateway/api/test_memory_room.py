"""The gateway's memory routes in front of the real memory service: files pass through, and nothing drawn is a 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from pmd.gateway.api import forward
from pmd.gateway.api.app import create_app
from pmd.gateway.settings import GatewaySettings
from pmd.services.memory.app import create_app as create_memory
from pmd.services.memory.settings import MemoryServiceSettings
from tests.drawn import operations, quick, request_of
from tests.gateway.fakes import TOKEN

MAX_QUERY = 60_000

BANK = [
    {"format": "pmd-bank", "version": 1, "bank": "x", "seq": 1},
    {"problem": {"id": "p0", "messages": [{"role": "user", "content": "Apply zor."}], "verifier": {"kind": "exact"}}},
    *(
        {"item": {
            **{"id": f"i{n}", "level": "insight", "kind": "strategy", "scope": "p0", "text": f"rotate {n} times."},
            **{"status": "active", "pinned": False, "edited": False, "step": 1, "policy_version": 0, "facts": {}},
        }}
        for n in range(5)
    ),
]  # fmt: skip


@pytest.fixture
def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(forward, "PATIENCE_S", 0.1)  # there is no verifier to wait for
    memory = create_memory(MemoryServiceSettings(token=TOKEN, state_dir=tmp_path / "memory"))  # type: ignore[arg-type]
    transports = {"memory": httpx.ASGITransport(memory, raise_app_exceptions=False)}
    gateway = create_app(
        GatewaySettings(token=TOKEN, state_dir=tmp_path / "state"),  # type: ignore[arg-type]
        wake=lambda _: None,
        transports=transports,
    )
    with TestClient(gateway, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def run(http: TestClient, recipe_tree: Callable[..., dict[str, Any]]) -> str:
    """A run whose bank was imported."""
    created = http.post("/v1/runs", json={"recipe": recipe_tree()}).json()["id"]
    file = "".join(json.dumps(line) + "\n" for line in BANK)
    done = http.post(f"/v1/runs/{created}/bank:import", content=file)
    assert done.status_code == 200, done.text
    assert done.json() == {"seq": 1, "dry_run": False, "added": 5, "known": 0, "problems": 1}
    return str(created)


def test_a_bank_leaves_and_comes_back_through_the_gateway(http: TestClient, run: str) -> None:
    file = http.get(f"/v1/runs/{run}/bank/export")
    assert file.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in file.text.splitlines()]
    assert [line["item"]["text"] for line in lines[2:]] == [f"rotate {n} times." for n in range(5)]
    again = http.post(f"/v1/runs/{run}/bank:import", content=file.content)
    assert (again.status_code, again.json()["added"]) == (200, 0)
    bad = http.post(f"/v1/runs/{run}/bank:import", content=file.content + b"{\n")
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "line 8")


def test_the_gateway_documents_what_the_memory_service_takes_and_answers(http: TestClient, tmp_path: Path) -> None:
    settings = MemoryServiceSettings(token=TOKEN, state_dir=tmp_path / "other")  # type: ignore[arg-type]
    theirs, ours = create_memory(settings).openapi(), http.get("/openapi.json").json()
    operations = [
        (verb, path, operation)
        for path, verbs in theirs["paths"].items()
        for verb, operation in verbs.items()
        if path.startswith("/v1/banks/{bank}")
    ]
    assert len(operations) > 20
    for verb, path, operation in operations:
        given = ours["paths"][under_a_run(path)][verb]
        mine, yours = ({(p["in"], p["name"]): p for p in each.get("parameters", [])} for each in (given, operation))
        extra = {name for where, name in mine if where != "path"} - {name for where, name in yours if where != "path"}
        assert extra <= ({"force", "X-PMD-Actor"} if verb == "delete" else set()), (verb, path)
        for (where, name), parameter in yours.items():
            if where != "path":
                same = {k: mine[where, name].get(k) for k in ("schema", "required", "description")}
                assert same == {k: parameter.get(k) for k in same}, (verb, path, name)
        for status, answer in operation["responses"].items():
            if status < "300":
                assert schemas(given["responses"][status]) == schemas(answer), (verb, path, status)
        if "requestBody" in operation:
            assert schemas(given["requestBody"]) == schemas(operation["requestBody"]), (verb, path)
    for name, schema in ours["components"]["schemas"].items():
        assert theirs["components"]["schemas"].get(name, schema) == schema, name


def under_a_run(path: str) -> str:
    """The gateway's address of a bank's."""
    path = path.replace("{item_id}", "{item}")
    if path.startswith("/v1/banks/{bank}/items"):
        return path.replace("/v1/banks/{bank}/items", "/v1/runs/{run}/memory")
    return path.replace("/v1/banks/{bank}", "/v1/runs/{run}/bank")


def schemas(part: dict[str, Any]) -> list[dict[str, Any]]:
    """What a body or an answer looks like, but for titles that say where it stands."""
    found = [media.get("schema", {}) for media in part.get("content", {}).values()]
    return [{k: v for k, v in schema.items() if k not in {"title", "description"}} for schema in found]


def test_a_bank_that_a_run_may_still_read_is_deleted_by_force_alone(http: TestClient, run: str) -> None:
    bank = f"/v1/runs/{run}/bank"
    assert http.delete(bank).status_code == 428
    refused = http.delete(bank, headers={"If-Match": "*"})
    assert (refused.status_code, "force=true" in refused.json()["title"]) == (409, True)
    stale = http.delete(bank, params={"force": True}, headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.headers["ETag"]) == (412, '"1"')
    assert http.get(bank).json()["insight"] == 5, "a refusal changes nothing"
    seen = {"If-Match": http.get(bank).headers["ETag"], "X-PMD-Actor": "ada"}
    assert http.delete(bank, params={"force": True}, headers=seen).status_code == 204
    assert http.get(bank).status_code == 404
    events = http.get(f"/v1/runs/{run}/events", params={"format": "json"}).json()
    told = [event["payload"] for event in events if event["type"] == "memory.deleted"]
    assert told == [{"actor": "person:ada", "status": "queued"}]


def test_a_bank_of_a_run_that_is_over_needs_no_force(http: TestClient, run: str) -> None:
    http.app.state.parts.registry.ask(run, "cancel")  # type: ignore[attr-defined]
    with http.app.state.parts.registry.database.write() as db:  # type: ignore[attr-defined]
        db.exec_driver_sql("UPDATE runs SET status = 'cancelled'")
    assert http.delete(f"/v1/runs/{run}/bank", headers={"If-Match": '"1"'}).status_code == 204


def test_requests_drawn_from_the_document_are_never_5xx(http: TestClient, run: str) -> None:
    items = [i["id"] for i in http.get(f"/v1/runs/{run}/memory").json()["items"]]
    known = {"run": [run], "item": items, "rollout": ["1:p0#0"]}

    def ask(operation: Any, mode: schemathesis.GenerationMode) -> None:
        @quick(4)
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            for name, values in known.items():
                if name in case.path_parameters and data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(values))
            request = request_of(case, TOKEN)
            if len(urlencode(request.get("params") or {}, doseq=True)) > MAX_QUERY:
                return  # the client refuses such an address, not the gateway
            request["headers"]["If-Match"] = "*"
            answer = http.request(**request)
            assert answer.status_code < 500, (request, answer.text)

        check()

    drawn = [param.values for param in operations(http.get("/openapi.json").json())]
    ours = [each for each in drawn if any(part in each[0].path for part in ("/memory", "/bank", "/contexts/"))]
    assert len(ours) >= 28
    for operation, mode in ours:
        ask(operation, mode)
