"""What the gateway passes on: memory, chat, judging; and what it knows of the services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from pmd.gateway.api.forward import Forwarder
from pmd.gateway.loop.state import PhaseName
from pmd.gateway.registry.registry import Registry
from pmd.services.common.tokens import Tokens
from tests.gateway.api.person import Tree, create

Answers = Callable[[httpx.Request], httpx.Response]


def test_memory_is_changed_through_the_gateway_as_it_is_at_its_service(http: TestClient, finished: str) -> None:
    given = {"If-Match": '"6"', "Idempotency-Key": "k", "X-PMD-Actor": "ada"}
    answer = http.patch(f"/v1/runs/{finished}/memory/i-9", json={"text": "new"}, headers=given)
    assert (answer.status_code, answer.headers["ETag"]) == (412, '"7"')
    seen = {"if-match": '"6"', "idempotency-key": "k", "x-pmd-actor": "ada"}
    assert answer.json() == {"id": "i-9", "body": {"text": "new"}, **seen}
    assert http.patch(f"/v1/runs/{finished}/memory/i-9", json={"text": "new"}).status_code == 428
    odd = http.patch(
        f"/v1/runs/{finished}/memory/i-9",
        json={"text": "new"},
        headers=[(b"If-Match", b"*"), (b"X-PMD-Actor", b"\xe9")],
    )
    assert (odd.status_code, odd.json()["errors"][0]["field"]) == (422, "header.X-PMD-Actor")
    context = http.get("/v1/contexts/3:p0%230", params={"run": finished}).json()
    assert context == {"rollout": "3:p0#0", "bank": finished}


def test_memory_is_read_through_the_gateway(http: TestClient, finished: str, recipe_tree: Tree) -> None:
    page = http.get(f"/v1/runs/{finished}/memory", params={"level": "insight"}).json()
    assert page["items"][0]["level"] == "insight"
    assert http.get(f"/v1/runs/{finished}/memory/i-9").json()["item"]["id"] == "i-9"
    assert http.get(f"/v1/runs/{finished}/memory", params={"level": "wisdom"}).status_code == 422
    forgetful = create(http, recipe_tree(method="grpo"))["id"]
    assert "has no memory (method grpo)" in http.get(f"/v1/runs/{forgetful}/memory").json()["title"]


def test_chat_is_passed_on_whole_and_streaming(http: TestClient) -> None:
    body = {"model": "demo-1@2", "messages": []}
    assert http.post("/v1/chat/completions", json=body).json()["model"] == "demo-1@2"
    streamed = http.post("/v1/chat/completions", json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert http.get("/v1/models").json()["object"] == "list"


def test_completions_are_judged_through_the_gateway(http: TestClient) -> None:
    item = {"verifier": {"kind": "exact", "answer": "42"}, "completion": "42"}
    assert http.post("/v1/verify", json={"items": [item]}).json()["verdicts"][0]["outcome"] == "passed"
    assert http.post("/v1/verify", json={"items": []}).status_code == 422
    refused = http.post("/v1/verify", json={"items": [item] * 3})
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3")


def test_a_step_is_judged_again_from_what_it_recorded(http: TestClient, registry: Registry, finished: str) -> None:
    state = registry.state(finished)[0]
    specs = {"train-0": {"kind": "exact", "answer": "x"}}
    for step in (1, None):
        asked = http.post(f"/v1/runs/{finished}:reverify", json={"step": step, "specs": specs}).json()
        place = step or max(number for number, name in state.records if name == "verify")
        assert asked["rollouts"] == state.records[place, PhaseName.ROLLOUT].result["rollouts"]
        assert asked["verdicts"] == state.records[place, PhaseName.VERIFY].result["verdicts"]
        assert asked["problems"] == state.inputs.problems.model_dump(mode="json")
        assert asked["specs"] == specs
    refused = http.post(f"/v1/runs/{finished}:reverify", json={"step": 99})
    assert refused.status_code == 404
    assert "no judged rollouts of step 99" in refused.json()["title"]


def forwarded(answer: Answers, method: str) -> Any:
    """What a service that answers so says to a caller's request."""
    forwarder = Forwarder(
        {"memory": "http://memory"}, Tokens("a-token-of-this-test"), transports={"memory": httpx.MockTransport(answer)}
    )

    async def body() -> bytes:
        return b"{}"

    caller: Any = SimpleNamespace(
        method=method, headers=httpx.Headers(), body=body, url=httpx.URL("http://gateway/v1/runs/a/memory")
    )
    return asyncio.run(forwarder.same("memory", "/v1/banks/a/items", caller))


def starting(failures: list[httpx.Response | Exception]) -> Answers:
    """A service that fails so before it answers."""

    def answer(_: httpx.Request) -> httpx.Response:
        failure = failures.pop(0) if failures else httpx.Response(200, json={})
        if isinstance(failure, Exception):
            raise failure
        return failure

    return answer


AWAY = httpx.ConnectError("connection refused")


def test_law_12_a_service_that_starts_again_is_waited_for() -> None:
    assert forwarded(starting([AWAY, AWAY]), "PATCH").status_code == 200, "no service has received it"
    assert forwarded(starting([AWAY, httpx.Response(503)]), "GET").status_code == 200
    assert forwarded(starting([httpx.Response(503)]), "PATCH").status_code == 503, "it may have been done"
    with pytest.raises(HTTPException):
        forwarded(starting([httpx.ReadError("reset")]), "PATCH")


def test_a_service_that_stays_away_is_503_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.gateway.api.forward.PATIENCE_S", 0.3)
    with pytest.raises(HTTPException, match="memory service is out of reach") as refused:
        forwarded(starting([AWAY] * 100), "GET")
    assert refused.value.status_code == 503


def test_services_are_told_apart(http: TestClient) -> None:
    views = {view["name"]: view for view in http.get("/v1/services").json()}
    assert views["rollout"]["ready"]
    assert views["rollout"]["details"]["engine"] == "fake"
    assert not views["trainer"]["ready"]
    assert "connection refused" in views["trainer"]["error"]
