"""Whatever is sent to the gateway, it answers: no 5xx, nothing but what its document says, whose own examples are
valid by its schemas.

schemathesis draws requests from the published document, valid and invalid ones, the same in every run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from pmd.gateway.api.app import create_app
from pmd.gateway.recipes.problems import parse_recipe
from pmd.gateway.settings import GatewaySettings
from tests.drawn import operations, quick, request_of
from tests.gateway.fakes import TOKEN

SERVICES = ("rollout", "verifier", "memory", "trainer")
LONGEST_URL = 10_000


def gateway(folder: Path) -> FastAPI:
    options = GatewaySettings(token=TOKEN, state_dir=folder)  # type: ignore[arg-type]
    return create_app(options, wake=lambda _: None, transports=dict.fromkeys(SERVICES, httpx.MockTransport(away)))


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return gateway(Path(folder)).openapi()


DOCUMENT = document()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = gateway(tmp_path_factory.mktemp("state"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pmd.gateway.api.forward.PATIENCE_S", 0.0)  # all services stay away
        with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False) as client:
            yield client


@pytest.mark.parametrize(("operation", "mode"), list(operations(DOCUMENT)))
def test_requests_drawn_from_the_document_are_answered(
    operation: Any, mode: schemathesis.GenerationMode, http: TestClient
) -> None:
    documented = DOCUMENT["paths"][operation.path][operation.method]["responses"]
    elsewhere = {"404", "405"} if "{" in operation.path else set()  # what is put into a path can lead to another one

    @quick(10)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        request = request_of(case, TOKEN)
        if len(str(request.get("params"))) > LONGEST_URL:
            return  # no client sends that
        answer = http.request(**request)
        # 503 is the truth here of a service that is away; everything else above 499 is a defect.
        assert answer.status_code < 500 or answer.status_code == 503, (request, answer.text)
        assert str(answer.status_code) in documented.keys() | elsewhere, (request, answer.status_code, answer.text)
        if answer.is_error:
            jsonschema.validate(answer.json(), DOCUMENT["components"]["schemas"]["Refusal"])
            assert answer.headers["content-type"] == "application/problem+json"

    check()


def examples() -> Iterator[Any]:
    """Every example of a JSON answer whose schema the document gives."""
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            for status, answer in operation["responses"].items():
                for media in answer.get("content", {}).values():
                    if "example" in media and media.get("schema", {}).get("type") != "string":
                        yield pytest.param(media.get("schema", {}), media["example"], id=f"{verb} {path} {status}")


@pytest.mark.parametrize(("schema", "example"), list(examples()))
def test_examples_of_answers_are_valid_answers(schema: dict[str, Any], example: Any) -> None:
    jsonschema.validate(example, {**schema, "components": DOCUMENT["components"]})


def test_the_document_says_which_routes_want_the_token(http: TestClient) -> None:
    assert DOCUMENT["security"] == [{"token": []}]
    assert DOCUMENT["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, verbs in DOCUMENT["paths"].items():
        if "get" in verbs and "{" not in path:
            refused = http.get(path, headers={"Authorization": ""}).status_code == 401
            assert refused == ("security" not in verbs["get"]), path


def test_every_route_says_how_it_refuses() -> None:
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            refused = {status for status in operation["responses"] if status >= "400"}
            signs_in = (verb, path) == ("post", "/v1/session")
            assert ("401" in refused) == ("security" not in operation or signs_in), (verb, path)
            assert ("413" in refused) == ("requestBody" in operation), (verb, path)
            assert all(
                answer["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Refusal"}
                for status, answer in operation["responses"].items()
                if status in refused
            ), (verb, path)


@pytest.mark.parametrize("path", ["/v1/runs?stauts=failed", "/v1/runs/r/events?format=json&aftr=3"])
def test_law_11_a_filter_that_nobody_knows_is_refused(path: str, http: TestClient) -> None:
    answer = http.get(path)
    assert answer.status_code == 422, answer.text
    assert "unknown key" in answer.json()["errors"][0]["message"]


def test_the_example_of_a_recipe_is_a_recipe() -> None:
    (recipe,) = DOCUMENT["components"]["schemas"]["CreateRun"]["properties"]["recipe"]["examples"]
    parse_recipe(recipe)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(17 << 20), "Content-Type": "application/json"}, 413),
        ({"Content-Length": str(1 << 40), "Content-Type": "application/octet-stream"}, 413),
    ],
)
def test_a_body_that_is_too_large_is_refused_unread(headers: dict[str, str], status: int, http: TestClient) -> None:
    answer = http.post("/v1/runs", content=iter([b"{"]), headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 100_000 + b"]" * 100_000, b'{"recipe": {"\\ud800": 1}}',
        b'{"recipe": {"teacher": {"ema": NaN}}}', b'{"recipe": {"seed": ' + b"9" * 5000 + b"}}",
        b'{"recipe": {"problems": {"source": ["a"]}}}', b'{"recipe": {"model": "\\u0000", "name": "\\ud800"}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/recipes:validate"])
def test_hostile_recipes_are_4xx(path: str, body: bytes, http: TestClient) -> None:
    answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
