"""What a recipe names of the hub, over REST: fetched in the background, followed, ended, told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.gateway.api.person import Tree
from tests.models.hub import LocalHub

COLUMNS = {"prompt": "{{ question }}", "verifier": {"kind": "exact", "answer": "{{ answer }}"}}
PAD = " " * 1000


def rows(split: str, number: int) -> bytes:
    lines = (f'{{"question": "{split} {n}?{PAD}", "answer": "{n}"}}' for n in range(number))
    return "\n".join(lines).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A data set of 30 MB that comes slowly."""
    files = {"train.jsonl": rows("train", 30_000), "test.jsonl": rows("test", 10)}
    started = LocalHub(files, "d" * 40, "team/sums", "dataset", slow=0.15)
    with started.chosen(monkeypatch, tmp_path / "hf"):
        yield started


@pytest.fixture
def recipe(recipe_tree: Tree) -> dict[str, Any]:
    tree = recipe_tree()
    splits, some = {"train": "train", "test": "test"}, {"train": ":8"}
    named = {"source": "huggingface", "dataset": "team/sums", "splits": splits, "rows": some, "columns": COLUMNS}
    return tree | {"problems": named}


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_data_set_comes_in_the_background_and_the_run_is_frozen_at_its_commit(
    http: TestClient, hub: LocalHub, recipe: dict[str, Any]
) -> None:
    name = f"team/sums@{hub.commit}"
    began = time.monotonic()
    answer = http.post("/v1/runs", json={"recipe": recipe})
    assert time.monotonic() - began < 4.0, "30 pieces take longer"
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert f"data set {name} is being downloaded" in answer.json()["title"]
    (listed,) = http.get("/v1/downloads").json()
    assert (listed["kind"], listed["name"], listed["status"]) == ("dataset", name, "downloading")
    assert listed["total_bytes"] == sum(map(len, hub.files.values()))
    until(lambda: http.get("/v1/downloads").json()[0]["bytes"] > 0)
    until(lambda: [d["status"] for d in http.post("/v1/recipes:fetch", json={"recipe": recipe}).json()] == ["ready"])
    asked = len(hub.asked)
    created = http.post("/v1/runs", json={"recipe": recipe})
    assert created.status_code == 201
    assert created.json()["dataset"] == name
    assert not [each for each in hub.asked[asked:] if "/resolve/" in each]
    (event,) = http.get(f"/v1/runs/{created.json()['id']}/events?format=json&limit=1").json()
    assert event["payload"]["problems"] == name


def test_looking_fetches_no_data_and_says_how_much_there_is(
    http: TestClient, hub: LocalHub, recipe: dict[str, Any]
) -> None:
    answer = http.post("/v1/recipes:validate", json={"recipe": recipe})
    assert answer.status_code == 200
    (missing,) = answer.json()["missing"]
    assert missing["field"] == "problems.dataset"
    assert f"team/sums@{hub.commit} is not here yet: 2 files, 31." in missing["message"]
    assert not [each for each in hub.asked if "/resolve/" in each]


def test_a_download_that_is_cancelled_ends_and_goes_on_when_asked_for_again(
    http: TestClient, hub: LocalHub, recipe: dict[str, Any]
) -> None:
    hub.slow = 0.3
    body = {"recipe": recipe, "weights": False}
    assert http.post("/v1/recipes:fetch", json=body).json()[0]["status"] == "downloading"
    until(lambda: http.get("/v1/downloads").json()[0]["bytes"] > 0)
    name = {"name": f"team/sums@{hub.commit}"}
    assert http.post("/v1/downloads:cancel", json=name).status_code == 200
    until(lambda: http.get("/v1/downloads").json() == [])
    told = http.post("/v1/recipes:fetch", json=body)
    assert told.status_code == 409
    assert "was cancelled; ask again" in told.json()["title"]
    assert http.post("/v1/downloads:cancel", json=name).status_code == 404
    hub.slow, asked = 0.0, len(hub.asked)
    assert http.post("/v1/recipes:fetch", json=body).json()[0]["status"] == "downloading"
    until(lambda: http.post("/v1/recipes:fetch", json=body).json()[0]["status"] == "ready")
    assert not [each for each in hub.asked[asked:] if "GET" in each and "test.jsonl" in each], "it was whole"


def test_a_part_of_a_data_set_is_not_taken_for_it_when_the_hub_is_gone(
    http: TestClient, hub: LocalHub, recipe: dict[str, Any]
) -> None:
    hub.slow = 0.3
    http.post("/v1/recipes:fetch", json={"recipe": recipe})
    until(lambda: http.get("/v1/downloads").json()[0]["bytes"] > 0)  # the small file is whole by now
    http.post("/v1/downloads:cancel", json={"name": f"team/sums@{hub.commit}"})
    until(lambda: http.get("/v1/downloads").json() == [])
    http.post("/v1/recipes:fetch", json={"recipe": recipe})  # told that it was cancelled
    hub.close()
    assert http.post("/v1/runs", json={"recipe": recipe}).status_code == 503
    until(lambda: http.get("/v1/downloads").json() == [])
    answer = http.post("/v1/runs", json={"recipe": recipe})
    assert answer.status_code == 503
    (wrong,) = answer.json()["errors"]
    assert wrong["field"] == "problems.dataset"
    assert f"no hub answers at {hub.url}" in wrong["message"]
    assert "hf download --repo-type dataset team/sums" in wrong["message"]
