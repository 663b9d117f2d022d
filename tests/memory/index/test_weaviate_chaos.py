"""Weaviate as it fails: killed in the middle of a write, asked with a wrong key, back after an outage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pmd.services.memory.index.embed import HashEmbedder
from pmd.services.memory.index.embedders import EmbedderSpec
from pmd.services.memory.index.index import IndexDown, catch_up
from pmd.services.memory.index.reindex import differences, reindex
from pmd.services.memory.index.search import Search
from pmd.services.memory.index.vectors import VectorFile, Vectors
from pmd.services.memory.ledger import Item, Ledger
from tests.memory.weaviate_server import OwnServer, own_server

pytestmark = pytest.mark.chaos


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    made = own_server(tmp_path / "weaviate")
    made.start()
    yield made
    made.close()


def behaviors(first: int, count: int) -> list[Item]:
    return [
        Item(level="behavior", kind="behavior", scope="s", text=f"rule {n}: rotate zor{n}", step=1, policy_version=0)
        for n in range(first, first + count)
    ]


def test_killed_in_the_middle_of_a_write_it_equals_the_ledger_after_catch_up(server: OwnServer, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    vectors = Vectors(VectorFile(tmp_path / "vectors.db"), HashEmbedder())
    index = server.index(HashEmbedder().id)
    ledger.apply("b", "w1", lambda tx: tx.write(behaviors(0, 100), "test"))
    catch_up(ledger, index, vectors, "b", "behavior")
    old = ledger.active("b", "behavior")[:30]
    ledger.apply("b", "w2", lambda tx: tx.set_status(old, "retired", 2, "test"))
    ledger.apply("b", "w3", lambda tx: tx.write(behaviors(100, 5000), "test"))
    vectors.of([i.text for i in ledger.active("b", "behavior")])  # the write itself is what is to be hit
    broke: list[str] = []

    def write() -> None:
        try:
            catch_up(ledger, index, vectors, "b", "behavior")
        except IndexDown as error:
            broke.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    deadline = time.monotonic() + 60
    other = server.index(HashEmbedder().id)
    while len(other.versions("b", "behavior")) < 500:  # some of the batches have arrived
        assert time.monotonic() < deadline
    server.kill()
    writer.join(120)
    assert broke, "the write was over before the server was killed"
    server.start()
    catch_up(ledger, index, vectors, "b", "behavior")
    assert differences(ledger, index, "b", "behavior") == 0
    assert index.seq("b", "behavior") == ledger.seq("b")


def test_a_service_finds_its_way_back_after_an_outage(server: OwnServer, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    file = VectorFile(tmp_path / "vectors.db")
    search = Search(ledger, file, EmbedderSpec(), SecretStr(""), server.index)
    search.start()
    try:
        ledger.apply("b", "w1", lambda tx: tx.write(behaviors(0, 20), "test"))
        asked = {"alpha": 0.5, "limit": 5}
        before = search.find("b", "behavior", ["zor3"], **asked)  # type: ignore[arg-type]
        assert (before.index, before.degraded) == ("weaviate", False)
        server.kill()
        ledger.apply("b", "w2", lambda tx: tx.write(behaviors(20, 20), "test"))
        during = search.find("b", "behavior", ["zor33"], **asked)  # type: ignore[arg-type]
        assert (during.index, during.degraded) == ("exact", True)
        server.start()
        deadline = time.monotonic() + 60
        while search.status()["index_degraded"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        after = search.find("b", "behavior", ["zor33"], **asked)  # type: ignore[arg-type]
        assert (after.index, after.degraded) == ("weaviate", False)
        assert after.hits[0][0].id == during.hits[0][0].id
        assert differences(ledger, search.index, "b", "behavior") == 0
        assert set(reindex(ledger, search, "b").values()) == {0}
    finally:
        search.close()


def test_nobody_gets_in_without_the_key(server: OwnServer) -> None:
    for key in ("", "another-key"):
        with pytest.raises(IndexDown):
            server.index("hash-512", key=key).seq("b", "behavior")
