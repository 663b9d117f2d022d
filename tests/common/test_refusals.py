"""A refusal keeps the headers that HTTP gives it, and a missing precondition is 428 in every service."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import APIRouter, HTTPException
from fastapi.testclient import TestClient

from pmd.services.common.app import create_service
from pmd.services.common.curation import IfMatch
from pmd.services.common.settings import ServiceSettings

TOKEN = "t" * 16


@pytest.fixture
def http(tmp_path: Path) -> TestClient:
    app = create_service("demo", ServiceSettings(token=TOKEN, state_dir=tmp_path), ready=dict)  # type: ignore[arg-type]

    @app.put("/v1/thing")
    def put(size: int, if_match: IfMatch) -> str:
        if size > 9:
            raise HTTPException(413, "too large", headers={"Retry-After": "9"})
        return if_match

    router = APIRouter()

    @router.delete("/v1/thing")
    def delete() -> None:
        """Another route of the same path."""

    app.include_router(router)
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})


def test_a_refusal_keeps_its_headers(http: TestClient) -> None:
    wrong = http.get("/v1/thing", headers={"Authorization": "Bearer x"})
    assert (wrong.status_code, wrong.headers["WWW-Authenticate"]) == (401, "Bearer")
    verb = http.post("/v1/thing")
    assert (verb.status_code, verb.headers["Allow"]) == (405, "DELETE, PUT")
    raised = http.put("/v1/thing?size=10", headers={"If-Match": "*"})
    assert (raised.status_code, raised.headers["Retry-After"]) == (413, "9")
    assert raised.headers["content-type"] == "application/problem+json"


def test_a_missing_precondition_is_428_and_documented(http: TestClient) -> None:
    assert http.put("/v1/thing?size=1").status_code == 428
    both = http.put("/v1/thing?size=x")
    assert (both.status_code, len(both.json()["errors"])) == (422, 2)
    assert http.put("/v1/thing?size=1", headers={"If-Match": "3"}).status_code == 422
    assert http.put("/v1/thing?size=1", headers={"If-Match": '"3", "4"'}).json() == '"3", "4"'
    (_, header) = http.get("/openapi.json").json()["paths"]["/v1/thing"]["put"]["parameters"]
    assert (header["name"], header["required"]) == ("If-Match", True)
