"""A person at the REST interface of a bank that jobs write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from pmd.services.common.artifacts import load_messages, read_table
from pmd.services.memory.app import create_app
from pmd.services.memory.settings import MemoryServiceSettings
from tests.memory.world import Words, World, eight_problems

TOKEN = "t" * 16
RIGHT, WRONG = "Plan: rotate then add 3.", "Plan: reverse then add 1."
B = "/v1/banks/b"


class Desk:
    """A person at the REST interface of a bank that jobs write to."""

    def __init__(self, world: World, http: TestClient) -> None:
        self.world = world
        self.http = http

    def items(self, **params: Any) -> list[dict[str, Any]]:
        return list(self.http.get(f"{B}/items", params=params).raise_for_status().json()["items"])

    def one(self, **params: Any) -> dict[str, Any]:
        (item,) = self.items(**params)
        return item

    def detail(self, item: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(f"{B}/items/{item['id']}").raise_for_status().json())

    def post(self, path: str, body: Any = None, version: int | str | None = None, **headers: str) -> httpx.Response:
        return self.http.post(f"{B}/{path}", json=body, headers=if_match(version) | headers)

    def act(self, item: dict[str, Any], verb: str, body: Any = None) -> Any:
        answer = self.post(f"items/{item['id']}:{verb}", body, item["version"])
        assert answer.status_code == 200, answer.text
        return answer.json()

    def edit(self, item: dict[str, Any], text: str, **headers: str) -> httpx.Response:
        path = f"{B}/items/{item['id']}"
        return self.http.patch(path, json={"text": text}, headers=if_match(item["version"]) | headers)

    def proposals(self, **params: str) -> list[dict[str, Any]]:
        return list(self.http.get(f"{B}/proposals", params=params).json()["proposals"])

    def learn(self, step: int, says: str = "rotate then add 3.", passed: bool = True) -> None:
        """One step of the loop on problem p0."""
        self.world.record(step, [("p0", RIGHT, passed), ("p0", WRONG, not passed)])
        self.world.reflect(step, Words(lambda _: f"Strategy: {says}"), ["p0"])

    def shown(self, step: int, pid: str = "p0") -> str:
        rows = read_table(self.world.retrieve(step, demonstrations="none", feedback="never").contexts)
        return next(load_messages(r["messages"])[-1].content for r in rows if r["problem_id"] == pid)


def if_match(version: int | str | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": "*" if version == "*" else f'"{version}"'}


@contextmanager
def open_desk(url: str, folder: Path) -> Iterator[Desk]:
    """A desk on the service over the ledger at `url`."""
    settings = MemoryServiceSettings(token=TOKEN, state_dir=folder / "state", memory_database_url=url)  # type: ignore[arg-type]
    world = World(folder, eight_problems(), url)
    headers = {"Authorization": f"Bearer {TOKEN}", "X-PMD-Actor": "ada"}
    with TestClient(create_app(settings), headers=headers) as http:
        yield Desk(world, http)
    world.ledger.close()
