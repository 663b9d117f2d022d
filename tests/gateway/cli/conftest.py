"""The `pmd` command in front of a gateway of canned answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from pmd.gateway.cli import main
from pmd.gateway.cli.client import Gateway
from tests.hostile import HOSTILE

Answers = dict[str, Any]

SPEAK = (
    *("runs", "samples", "delete", "fork", "compare", "memory", "curate", "moments"),
    *("chat", "dashboard", "export", "serve", "verify"),
)
"""Modules of commands that speak to a gateway."""


@pytest.fixture(autouse=True)
def hostile_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a shell holds for others decides what the command does."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)


class Api:
    """Answers by `METHOD /path`, given or made from the request; remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.get(f"{request.method} {request.url.path}")
        if answer is None:
            return httpx.Response(404, json={"status": 404, "title": f"no {request.url.path}"})
        if callable(answer):
            answer = answer(request)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    found = Api()
    gateway = Gateway("http://gateway", "token", transport=httpx.MockTransport(found))
    for module in SPEAK:
        monkeypatch.setattr(f"pmd.gateway.cli.{module}.connect", lambda: gateway)
    return found


@pytest.fixture
def pmd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.setenv("PMD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("PMD_URL", raising=False)
    monkeypatch.delenv("PMD_TOKEN", raising=False)
    return lambda *words: CliRunner().invoke(main.app, list(words))


Pmd = Callable[..., Result]


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of who runs the tests reaches an installation of theirs."""
    for name in (
        "PMD_TOKEN",
        "PMD_REDIS_URL",
        "REDIS_URL",
        "PMD_DATABASE_URL",
        "PMD_DATA_URI",
        "PMD_WEAVIATE_URL",
        "PMD_MEMORY_INDEX",
    ):
        monkeypatch.delenv(name, raising=False)
