"""`/docs` of every service works where there is no internet, and opens nothing but itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pmd.services.common.app import DOCS_FILES, create_service
from pmd.services.common.settings import ServiceSettings

TOKEN = "test-token-0123456789"


@pytest.fixture
def anonymous(tmp_path: Path) -> TestClient:
    app = create_service("test", ServiceSettings(token=TOKEN, state_dir=tmp_path), ready=dict)
    app.get("/v1/secret")(lambda: {"secret": True})
    return TestClient(app)


def test_the_page_and_all_that_it_loads_come_from_the_service_without_a_token(anonymous: TestClient) -> None:
    page = anonymous.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3, "script, style and icon"
    for path in loaded:
        assert path.startswith(f"{DOCS_FILES}/")
        answer = anonymous.get(path)
        assert answer.status_code == 200
        assert len(answer.content) > 1000
    assert "'/openapi.json'" in page.text


@pytest.mark.parametrize(
    "path", ["/v1/secret", f"{DOCS_FILES}/../../v1/secret", f"{DOCS_FILES}/%2e%2e/%2e%2e/v1/secret"]
)
def test_nothing_else_is_opened_by_it(path: str, anonymous: TestClient) -> None:
    answer = anonymous.get(path)
    assert answer.status_code in {401, 404}
    assert "secret" not in answer.json()


def test_no_file_beside_those_of_the_page_is_served(anonymous: TestClient) -> None:
    assert anonymous.get(f"{DOCS_FILES}/..%2fcore.py").status_code == 404
