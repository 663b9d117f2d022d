"""Search in a service: what happens when the index is away, when the embedder changes, and what people get."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from pmd.services.common.artifacts import read_table
from pmd.services.memory.app import create_app
from pmd.services.memory.index.embed import EmbedderDown
from pmd.services.memory.index.embedders import EmbedderSpec
from pmd.services.memory.index.index import IndexDown
from pmd.services.memory.index.search import Behind, Search, within
from pmd.services.memory.index.vectors import VectorFile, digest
from pmd.services.memory.index.weaviate import WeaviateIndex
from pmd.services.memory.ledger import Ledger
from pmd.services.memory.settings import MemoryServiceSettings
from tests.memory.index.embedding_endpoint import Endpoint, serving
from tests.memory.world import Words, World

TOKEN = "a-token-of-this-test"
HASH = EmbedderSpec()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as made:
        yield made


def filled(world: World) -> World:
    """Eight problems with a strategy each, and behaviors."""
    world.record(1, [(pid, "Plan: rotate.\n```", True) for pid in world.problems])
    world.reflect(1, Words(lambda p: f"Strategy: {p.split('Apply ')[1].split('.')[0]}: rotate."))
    world.abstract(1, Words(lambda _: "Behavior: every zor begins with rotate."))
    return world


def search(world: World, spec: EmbedderSpec = HASH, remote: Callable[[str], Any] = lambda _: None) -> Search:
    return Search(world.ledger, VectorFile(world.folder / "vectors.db"), spec, SecretStr(""), remote)


def openai(endpoint: Endpoint) -> EmbedderSpec:
    return EmbedderSpec(kind="openai", url=endpoint.url, model="m")


# ---------------------------------------------------------------- the index is away


def test_when_weaviate_is_away_the_ledger_answers_and_says_so(world: World) -> None:
    filled(world)
    away = search(world, remote=lambda embedder: WeaviateIndex("http://127.0.0.1:9", "127.0.0.1:10", "k", embedder))
    asked = ["zor-mil", "pav"]
    found = away.find("b", "insight", asked, alpha=0.5, limit=5)
    assert (found.index, found.degraded) == ("exact", True)
    assert found.hits == world.search.find("b", "insight", asked, alpha=0.5, limit=5).hits
    status = away.status()
    assert status["index"] == "weaviate"
    assert status["index_degraded"]
    assert "127.0.0.1:9" in status["index_problem"]
    began = time.monotonic()
    away.find("b", "insight", asked, alpha=0.5, limit=5)
    assert time.monotonic() - began < 1.0, "nobody waits for it again"


def test_contexts_of_a_job_say_that_the_index_was_away(world: World) -> None:
    filled(world)
    world.search = search(world, remote=lambda e: WeaviateIndex("http://127.0.0.1:9", "127.0.0.1:10", "k", e))
    world.batch(2, [("p0", "Plan: rotate.", True)])
    assert not world.retrieve(2).degraded, "a recipe that searches nothing needs no index"
    result = world.retrieve(2, by_meaning=("behavior",))
    assert (result.index, result.degraded) == ("exact", True)


def test_a_bank_is_not_deleted_while_its_index_can_not_be(world: World) -> None:
    filled(world)
    away = search(world, remote=lambda e: WeaviateIndex("http://127.0.0.1:9", "127.0.0.1:10", "k", e))
    with pytest.raises(IndexDown):
        away.delete("b")
    assert world.ledger.seq("b")


def test_a_search_that_takes_too_long_stops_and_goes_on_where_it_was(world: World) -> None:
    filled(world)
    with pytest.raises(Behind, match="ask again"):
        world.search.find("b", "insight", ["zor"], alpha=0.5, limit=5, check=within(-1.0))
    assert world.search.find("b", "insight", ["zor"], alpha=0.5, limit=5).hits[0]


# ---------------------------------------------------------------- the embedder changes


def test_reads_use_the_old_embedder_until_the_new_one_has_done_everything(world: World, endpoint: Endpoint) -> None:
    filled(world)
    before = world.search.find("b", "insight", ["zor-mil"], alpha=1.0, limit=3)
    gate = threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        gate.wait(20)
        return endpoint.right(body)

    endpoint.answer = slow
    changed = search(world, openai(endpoint))
    changed.start()
    try:
        during = changed.find("b", "insight", ["zor-mil"], alpha=1.0, limit=3)
        assert during.embedder == "hash-512"
        assert during.hits == before.hits
        assert changed.status()["embedder_next"] == "openai-m"
        gate.set()
        wait_until(lambda: changed.vectors.id == "openai-m")
        assert set(changed.status()) == {"index", "embedder"}
        asked = len(endpoint.requests)
        after = changed.find("b", "insight", ["a new question"], alpha=1.0, limit=3)
        assert after.embedder == "openai-m"
        assert len(endpoint.requests) == asked + 1, "only the question is new"
    finally:
        gate.set()
        changed.close()
    file = VectorFile(world.folder / "vectors.db")
    assert not file.get("hash-512", [digest("zor-mil")]), "the old one's vectors are gone"
    assert search(world, openai(endpoint)).status() == {"index": "exact", "embedder": "openai-m"}


def test_a_change_that_was_killed_goes_on(world: World, endpoint: Endpoint) -> None:
    filled(world)
    for level in ("behavior", "insight"):
        world.search.find("b", level, ["zor"], alpha=1.0, limit=3)  # type: ignore[arg-type]
    endpoint.answer = lambda body: endpoint.right(body) if len(endpoint.requests) < 2 else (503, {})
    first = search(world, openai(endpoint))
    assert first._next is not None
    with pytest.raises(EmbedderDown):
        first.switch(first._next)
    assert first.vectors.id == "hash-512", "half a change changes nothing"
    done = set(endpoint.requests[0]["input"])
    endpoint.answer = endpoint.right
    endpoint.requests.clear()
    second = search(world, openai(endpoint))
    assert second.vectors.id == "hash-512"
    assert second._next is not None
    second.switch(second._next)
    assert second.vectors.id == "openai-m"
    assert done
    assert not done & {text for r in endpoint.requests for text in r["input"]}, (
        "what was embedded is not embedded again"
    )


def test_an_old_embedder_that_can_not_be_loaded_any_more_does_not_stop_the_service(
    world: World, tmp_path: Path
) -> None:
    filled(world)
    gone = EmbedderSpec(kind="local", path=str(tmp_path / "gone"))
    VectorFile(world.folder / "vectors.db").activate(gone.model_dump_json(), "local-gone")
    assert search(world).vectors.id == "hash-512"


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------- contexts by meaning


def shown(world: World, step: int, **settings: Any) -> dict[str, list[str]]:
    rows = read_table(world.retrieve(step, **settings).contexts)
    return {row["problem_id"]: row["messages"] for row in rows}


def test_the_default_recipe_searches_no_index(world: World) -> None:
    filled(world)
    world.batch(2, [("p6", "Plan: rotate.", True)])
    assert world.retrieve(2).index is None
    assert world.search.index.seq("b", "behavior") == 0


def test_a_behavior_of_another_topic_is_found_by_meaning(world: World) -> None:
    filled(world)
    world.batch(2, [("p6", "Plan: sort.", False)])  # pav-kem: mentions no zor
    assert "every zor" not in shown(world, 2)["p6"]
    assert "every zor" in shown(world, 2, by_meaning=("behavior",), min_similarity=-1.0)["p6"]
    assert "every zor" not in shown(world, 2, by_meaning=("behavior",), min_similarity=0.9)["p6"]


def test_strategies_of_problems_that_ask_the_like_are_found_by_meaning(world: World) -> None:
    world.record(1, [(pid, "Plan: rotate.\n```", True) for pid in world.problems])
    advice = {"zor-mil": "turn it round", "pav-kem": "leave it"}  # names nothing of what the problems ask for
    world.reflect(1, Words(lambda p: f"Strategy: {advice[p.split('Apply ')[1].split('.')[0]]}."), ["p0", "p6"])
    world.batch(2, [("p1", "Plan: sort.", False)])
    assert "Strategy" not in shown(world, 2)["p1"]
    near = shown(world, 2, by_meaning=("insight",), k=1)["p1"]
    assert "Strategy: turn it round." in near, "p0 is of the same family"
    assert "leave it" not in near
    world.batch(3, [("p1", "Plan: sort it.", True)])
    world.reflect(3, Words(lambda _: "Strategy: sort it."), ["p1"])
    own = shown(world, 3, by_meaning=("insight",), k=1)["p1"]
    assert "Strategy: sort it." in own
    assert "turn it round" not in own, "who knows what to do is not told what others do"


def test_what_is_retired_is_not_found_by_meaning_even_if_the_index_still_holds_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(world)
    world.batch(2, [("p6", "Plan: sort.", False)])
    settings: dict[str, Any] = {"by_meaning": ("behavior",), "min_similarity": -1.0}
    assert "every zor" in shown(world, 2, **settings)["p6"]
    monkeypatch.setattr("pmd.services.memory.index.search.catch_up", lambda *_: 0)  # an index that lags for ever
    gone = world.ledger.active("b", "behavior")
    world.ledger.apply("b", "ban", lambda tx: tx.set_status(gone, "retired", 2, "test"))
    assert "every zor" not in shown(world, 2, **settings)["p6"]


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    filled(world)
    settings = MemoryServiceSettings(
        token=SecretStr(TOKEN),
        state_dir=world.folder / "var",
        memory_database_url=f"sqlite:///{world.folder}/ledger.db",
    )
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {TOKEN}"}) as made:
        yield made


def test_people_search_a_bank(client: TestClient) -> None:
    answer = client.get("/v1/banks/b/search", params={"q": "zor-mil", "limit": 3}).json()
    assert (answer["index"], answer["degraded"]) == ("exact", False)
    (items,) = answer["results"]
    assert len(items) == 3
    assert items[0]["text"] == "zor-mil: rotate."
    assert items[0]["score"] >= items[1]["score"]
    assert 0 < items[0]["similarity"] <= 1
    rules = client.get("/v1/banks/b/search", params={"q": "begins", "level": "behavior", "mode": "text"}).json()
    assert [i["text"] for i in rules["results"][0]] == ["every zor begins with rotate."]
    assert rules["results"][0][0]["similarity"] is None


def test_a_batch_is_answered_in_order(client: TestClient) -> None:
    asked = {"queries": ["zor-mil", "pav-kem"], "limit": 1, "mode": "text"}
    results = client.post("/v1/banks/b/search", json=asked).json()["results"]
    assert [r[0]["text"] for r in results] == ["zor-mil: rotate.", "pav-kem: rotate."]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"q": ""}, "q"),
        ({"q": "zor", "mode": "fuzzy"}, "mode"),
        ({"q": "zor", "mode": "text", "alpha": 0.3}, "alpha"),
        ({"q": "zor", "alpha": 1.1}, "alpha"),
        ({"q": "zor", "level": "rule"}, "level"),
        ({"q": "zor", "limit": 0}, "limit"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_field(
    client: TestClient, params: dict[str, Any], field: str
) -> None:
    answer = client.get("/v1/banks/b/search", params=params)
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["field"]


def test_an_unknown_bank_is_404_and_odd_texts_are_no_error(client: TestClient) -> None:
    assert client.get("/v1/banks/nobody/search", params={"q": "zor"}).status_code == 404
    odd = b'{"queries": ["\\u0000", "?", "%_*\\" OR 1"]}'
    answer = client.post("/v1/banks/b/search", content=odd, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_an_embedder_that_is_away_is_503_with_its_cause(world: World) -> None:
    filled(world)
    settings = MemoryServiceSettings(
        token=SecretStr(TOKEN),
        state_dir=world.folder / "var",
        memory_database_url=f"sqlite:///{world.folder}/ledger.db",
        memory_embedder="openai",
        memory_embedder_url="http://127.0.0.1:9/v1",
        memory_embedder_model="m",
    )
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.get("/v1/banks/b/search", params={"q": "zor"})
        assert answer.status_code == 503
        assert "127.0.0.1:9" in answer.json()["title"]
        assert client.get("/readyz").json()["embedder"] == "openai-m"
        assert client.delete("/v1/banks/b", headers={"If-Match": "*"}).status_code == 204
    assert Ledger(f"sqlite:///{world.folder}/ledger.db").seq("b") == 0


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"memory_index": "weaviate"}, "PMD_WEAVIATE_URL"),
        ({"memory_embedder": "local"}, "PMD_MEMORY_EMBEDDER_PATH"),
        ({"memory_embedder": "openai", "memory_embedder_url": "http://x/v1"}, "PMD_MEMORY_EMBEDDER_MODEL"),
    ],
)
def test_settings_that_want_another_name_it(given: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        MemoryServiceSettings(token=SecretStr(TOKEN), **given)
