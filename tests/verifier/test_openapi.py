"""Whatever is sent, the service answers: no 5xx, and a body that is wrong is told where.

Two sources: schemathesis draws requests from the published OpenAPI document, valid and invalid ones; and a valid
request of every kind is broken at one place at a time. Both are derandomised: the same cases in every run.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from pmd.services.verifier.app import create_app
from pmd.services.verifier.settings import VerifierSettings
from tests.drawn import operations, quick, request_of
from tests.verifier.conftest import RIGHT, SOLVE_SPEC, fenced
from tests.verifier.test_service import TOKEN

SPECS: list[dict[str, Any]] = [
    {**SOLVE_SPEC, "tests": SOLVE_SPEC["tests"][:1]},
    {"kind": "exact", "answer": "42"},
    {"kind": "choice", "answer": "B"},
    {"kind": "math", "answer": "7"},
    {"kind": "regex", "pattern": "[0-9]+"},
    {"kind": "json_schema", "json_schema": {"type": "object"}},
    {"kind": "unit_tests", "tests": ["assert solve([1]) == [1, 1]"]},
    {"kind": "http", "url": "http://127.0.0.1:9/v1", "attempts": 1},
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    options = VerifierSettings(
        token=TOKEN, state_dir=tmp_path_factory.mktemp("state"), sandbox_workers=1, sandbox_memory_mb=1024
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(create_app(options), headers=headers, raise_server_exceptions=False) as client:
        yield client


def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return create_app(VerifierSettings(token=TOKEN, state_dir=Path(folder))).openapi()


@pytest.mark.parametrize(("operation", "mode"), list(operations(document())))
def test_requests_drawn_from_the_document_are_never_5xx(
    operation: Any, mode: schemathesis.GenerationMode, http: TestClient
) -> None:
    @quick(25)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        request = request_of(case, TOKEN)
        if request.get("params"):
            request["params"] = {k: v for k, v in request["params"].items() if k != "wait"}
        answer = http.request(**request)
        assert answer.status_code < 500, (request, answer.text)

    check()


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def broken(value: Any, path: tuple[str | int, ...], part: Any) -> Any:
    """`value` with `part` at `path`."""
    if not path:
        return part
    changed = copy.copy(value)
    changed[path[0]] = broken(value[path[0]], path[1:], part)
    return changed


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_a_request_broken_at_one_place_is_answered_and_the_place_is_named(
    spec: dict[str, Any], http: TestClient
) -> None:
    whole = {"items": [{"verifier": spec, "completion": fenced(RIGHT)}]}

    @quick(25)
    @given(path=st.sampled_from(list(places(whole))), part=ANYTHING)
    def check(path: tuple[str | int, ...], part: Any) -> None:
        body = json.dumps(broken(whole, path, part))
        answer = http.post("/v1/verify", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400, 422), (body, answer.text)
        if answer.status_code == 422:
            errors = answer.json()["errors"]
            assert errors, answer.text
            assert all(error["field"] and error["message"] for error in errors), answer.text

    check()


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"\xff\xfe", b"null", b"[]", b"{}", b'{"items": []}', b'{"items": {}}', b'{"items": [1]}',
        b'{"items": [{"verifier": {"kind": "\\ud800"}, "completion": ""}]}',
        b'{"items": [{"verifier": {"kind": "exact", "answer": "x", "\\ud800": 1}, "completion": "\\ud800"}]}',
        b'{"items": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"items": [{"verifier": {"kind": "code", "tests": [' + b"[" * 900 + b"]" * 900 + b']}, "completion": ""}]}',
        b'{"items": [{"verifier": {"kind": "code", "tests": [], "limits": {"cpu_s": NaN}}, "completion": ""}]}',
        b'{"items": [{"verifier": {"kind": "code", "limits": {"memory_mb": ' + b"9" * 5000 + b'}}, "completion": ""}]}',
        b'{"items": [{"verifier": {"kind": "code", "limits": {"cpu_s": 1e999}}, "completion": ""}]}',
    ],
)  # fmt: skip
def test_hostile_bodies_are_4xx(body: bytes, http: TestClient) -> None:
    answer = http.post("/v1/verify", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    if answer.status_code == 422:
        assert all(error["field"] for error in answer.json()["errors"]), answer.text


def test_hostile_programs_in_a_right_request_are_verdicts(http: TestClient) -> None:
    spec = {"kind": "code", "tests": [{"input": "\u202e", "output": "x"}], "limits": {"cpu_s": 0.5}}
    for program in ("print(input())", "\0", "x" * 200_001, "```", "\u202e"):
        body = json.dumps({"items": [{"verifier": spec, "completion": fenced(program)}]})
        answer = http.post("/v1/verify", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["verdicts"][0]["reward"] == 0.0


def test_a_completion_that_is_no_text_is_named(http: TestClient) -> None:
    body = json.dumps({"items": [{"verifier": SOLVE_SPEC, "completion": fenced("print('\ud800')")}]})
    answer = http.post("/v1/verify", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["body.items.0.completion"]


def test_ten_thousand_tests_in_one_spec_are_refused(http: TestClient) -> None:
    spec = {"kind": "code", "tests": [{"input": "", "output": ""}] * 10_000}
    answer = http.post("/v1/verify", json={"items": [{"verifier": spec, "completion": ""}]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "items.0.verifier.tests"
