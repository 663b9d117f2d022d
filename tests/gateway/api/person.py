"""Who holds the token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from tests.gateway.fakes import TOKEN

Tree = Callable[..., dict[str, Any]]
AUTH = {"Authorization": f"Bearer {TOKEN}"}


def create(http: TestClient, tree: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = http.post("/v1/runs", json={"recipe": tree}, headers=headers)
    assert answer.is_success, answer.text
    return dict(answer.json())
