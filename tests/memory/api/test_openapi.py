"""Whatever is sent to the memory service, it answers: no 5xx, and a refusal says where.

Requests are drawn from the published document, valid and invalid ones, about a bank and items that exist as well as
about ones that do not. Derandomised: the same cases in every run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st

from pmd.services.memory.app import create_app
from pmd.services.memory.settings import MemoryServiceSettings
from tests.drawn import operations, quick, request_of
from tests.memory.desk import RIGHT, TOKEN, WRONG, B, Desk, open_desk
from tests.memory.world import Words

MAX_QUERY = 60_000
SKIPPED = {"/metrics", "/v1/jobs/{key}"}
"""Jobs are the protocol that all services share, tested there; a drawn one would wait for ever."""


def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return create_app(MemoryServiceSettings(token=TOKEN, state_dir=Path(folder))).openapi()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("fuzz")
    with open_desk(f"sqlite:///{folder / 'ledger.db'}", folder) as opened:
        opened.http.raise_server_exceptions = False  # type: ignore[attr-defined]
        opened.world.record(1, [(f"p{n}", text, text == RIGHT) for n in range(4) for text in (RIGHT, WRONG)])
        opened.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3.\nLesson: reverse then add 1."))
        opened.world.abstract(1, Words(lambda _: "Behavior: every zor begins with rotate."))
        opened.world.retrieve(1)
        yield opened


@pytest.mark.parametrize(("operation", "mode"), list(operations(document(), SKIPPED)))
def test_requests_drawn_from_the_document_are_never_5xx(
    operation: Any, mode: schemathesis.GenerationMode, desk: Desk
) -> None:
    known = {
        "bank": ["b", "fuzzed"],
        "item_id": [i["id"] for i in desk.items(status="any", limit=20)],
        "rollout": ["1:p0#0"],
    }

    @quick(12)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        for name, values in known.items():
            if name in case.path_parameters and values and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(values))
        request = request_of(case, TOKEN)
        if data.draw(st.booleans()):
            request["headers"]["If-Match"] = "*"
        if operation.method.upper() == "DELETE" and "banks/b?" in request["url"] + "?":
            return  # the bank that the other cases are about
        if len(urlencode(request.get("params") or {}, doseq=True)) > MAX_QUERY:
            return  # the client refuses such an address, not the service
        answer = desk.http.request(**request)
        assert answer.status_code < 500, (request, answer.text)
        if answer.status_code >= 400 and answer.headers.get("content-type") == "application/problem+json":
            body = answer.json()
            assert body["title"]
            assert all(error["field"] and error["message"] for error in body.get("errors", [])), answer.text

    check()


HOSTILE = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"text": "\\ud800"}', b'{"\\ud800": 1}', b'{"text": 1e999}',
    b'{"text": NaN}', b"[" * 50_000, b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"seq": ' + b"9" * 5000 + b"}",
    b'{"version": 99999999999999999999}', b'{"queries": ["\\u0000"], "limit": 1e3}',
    b'{"items": [{"id": "\\u0000", "version": 1}]}',
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:24]))
def test_hostile_bodies_are_4xx(desk: Desk, body: bytes) -> None:
    item = desk.items(limit=1, status="any")[0]["id"]
    paths = [
        f"items/{item}:split",
        f"items/{item}:revert",
        f"items/{item}:annotate",
        "items",
        "items:merge",
        "items:bulk",
    ]
    for path in [*(f"{B}/{p}" for p in paths), f"{B}:rollback", f"{B}:import", f"{B}/search"]:
        answer = desk.http.post(path, content=body, headers={"Content-Type": "application/json", "If-Match": "*"})
        fine = path.endswith("/search") and b"queries" in body
        assert (200 if fine else 400) <= answer.status_code < 500, (path, answer.text)


@pytest.mark.parametrize(
    "path", ["/v1/banks/%00/search?q=x", "/v1/banks/%00", "/v1/banks/b/items/%00", "/v1/banks/%F0"]
)
def test_hostile_addresses_are_4xx(desk: Desk, path: str) -> None:
    assert 400 <= desk.http.get(path).status_code < 500


def test_every_answer_to_a_wrong_field_names_it(desk: Desk) -> None:
    body = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": "x", "pinned": "perhaps"}
    answer = desk.http.post(f"{B}/items", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert [e["field"] for e in answer.json()["errors"]] == ["body.pinned"]
