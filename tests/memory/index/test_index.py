"""One contract for both indexes. Weaviate is a real server, or the tests say what would start one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from pmd.services.common.wire import Level
from pmd.services.memory.index.embed import HashEmbedder
from pmd.services.memory.index.exact import ExactIndex
from pmd.services.memory.index.index import Entry, Index, Query, catch_up
from pmd.services.memory.index.vectors import VectorFile, Vectors
from pmd.services.memory.ledger import Item, Ledger
from tests.memory.weaviate_server import Server

WORDS = (
    *("rotate", "reverse", "sort", "add", "subtract", "drop", "first", "last"),
    *("each", "number", "list", "symbol", "zor", "mil", "pav", "kem"),
)


@pytest.fixture(params=["exact", pytest.param("weaviate", marks=pytest.mark.xdist_group("weaviate"))])
def index(request: pytest.FixtureRequest) -> Index:
    if request.param == "exact":
        return ExactIndex()
    server: Server = request.getfixturevalue("weaviate")
    return server.index(f"hash-{uuid4()}")  # collections of its own: tests do not meet


@dataclass
class Bank:
    """A bank filled by hand, and an index of it."""

    ledger: Ledger
    vectors: Vectors
    index: Index
    name: str = "b"
    writes: int = 0

    def write(self, texts: Sequence[str], level: Level = "behavior") -> None:
        items = [
            Item(level=level, kind="behavior", scope="s", text=t, step=1, policy_version=0, facts={}) for t in texts
        ]
        self.apply(lambda tx: tx.write(items, "test"))

    def retire(self, *texts: str) -> None:
        gone = [i for i in self.ledger.active(self.name, "behavior") if i.text in texts]
        self.apply(lambda tx: tx.set_status(gone, "retired", 2, "test"))

    def apply(self, change: object) -> None:
        self.writes += 1
        self.ledger.apply(self.name, f"w{self.writes}", change)  # type: ignore[arg-type]

    def catch_up(self) -> int:
        return catch_up(self.ledger, self.index, self.vectors, self.name, "behavior")

    def find(self, text: str, alpha: float = 0.5, limit: int = 10) -> list[str]:
        self.catch_up()
        (hits,) = self.index.search(self.name, "behavior", [self.query(text)], alpha, limit)
        texts = {i.id: i.text for i in self.ledger.changes(self.name, 0)}
        return [texts[hit.id] for hit in hits]

    def query(self, text: str) -> Query:
        return Query(text, self.vectors.of([text])[0])

    def check_index_equals_ledger(self) -> None:
        held = {i.id: i.version for i in self.ledger.active(self.name, "behavior")}
        assert self.index.versions(self.name, "behavior") == held
        assert self.index.seq(self.name, "behavior") == self.ledger.seq(self.name)


@pytest.fixture
def bank(index: Index, tmp_path: Path) -> Bank:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    return Bank(ledger, Vectors(VectorFile(tmp_path / "vectors.db"), HashEmbedder()), index)


def test_an_unknown_bank_is_empty(bank: Bank) -> None:
    assert bank.catch_up() == 0
    assert bank.index.search("nobody", "behavior", [bank.query("zor")], 0.5, 3) == [[]]
    assert bank.index.versions("nobody", "behavior") == {}
    bank.index.drop("nobody")


def test_words_meaning_and_both_find_what_they_should(bank: Bank) -> None:
    bank.write(["zor: rotate the list first", "mil: add three to each", "pav: sort, rotated or not"])
    assert bank.find("rotate", alpha=0.0) == ["zor: rotate the list first"], "words are matched whole"
    by_meaning = bank.find("rotate", alpha=1.0)
    assert by_meaning[:2] == ["zor: rotate the list first", "pav: sort, rotated or not"], "n-grams reach further"
    assert len(by_meaning) == 3
    assert bank.find("rotate") == by_meaning
    assert bank.find("nothing of it", alpha=0.0) == []
    assert bank.find("zor", limit=1) == ["zor: rotate the list first"]


def test_a_text_without_a_word_is_no_error(bank: Bank) -> None:
    bank.write(["zor: rotate", "mil: add"])
    assert bank.find("?! ...", alpha=0.0) == []
    assert len(bank.find("?! ...")) == 2


def test_rare_words_weigh_more_than_common_ones(bank: Bank) -> None:
    bank.write([*(f"the common rule number {n}" for n in range(8)), "the rare zor"])
    assert bank.find("the common zor", alpha=0.0)[0] == "the rare zor"


def test_what_is_retired_is_gone_and_what_returns_is_back(bank: Bank) -> None:
    bank.write(["zor: rotate", "mil: add"])
    assert len(bank.find("zor mil")) == 2
    bank.retire("zor: rotate")
    assert bank.find("zor mil") == ["mil: add"]
    bank.check_index_equals_ledger()
    bank.write(["zor: rotate"])
    assert bank.find("zor", limit=1) == ["zor: rotate"]
    bank.check_index_equals_ledger()


def test_a_changed_item_is_found_once_at_its_new_version(bank: Bank) -> None:
    bank.write(["zor: rotate"])
    bank.catch_up()
    (item,) = bank.ledger.active("b", "behavior")
    bank.apply(lambda tx: tx.write([Item(**{**vars(item), "id": "", "facts": {"support": 4}})], "test"))
    assert bank.find("zor") == ["zor: rotate"]
    assert bank.index.versions("b", "behavior") == {item.id: 2}


def test_applying_twice_is_applying_once(bank: Bank) -> None:
    rows = bank.vectors.of(["zor", "mil"])
    held = [Entry("i1", 1, "zor"), Entry("i2", 1, "mil")]
    for _ in range(2):
        bank.index.apply("b", "behavior", held, rows, ["i0"], 7)
    assert bank.index.versions("b", "behavior") == {"i1": 1, "i2": 1}
    assert bank.index.seq("b", "behavior") == 7
    (hits,) = bank.index.search("b", "behavior", [bank.query("zor")], 0.0, 10)
    assert [h.id for h in hits] == ["i1"]


def test_banks_and_levels_do_not_meet(bank: Bank) -> None:
    bank.write(["zor: rotate"])
    bank.catch_up()
    other = Bank(bank.ledger, bank.vectors, bank.index, name="name.with-dots_" + "x" * 80)
    other.write(["zor: reverse"])
    assert other.find("zor") == ["zor: reverse"]
    assert bank.find("zor") == ["zor: rotate"]
    assert bank.index.search("b", "insight", [bank.query("zor")], 0.5, 3) == [[]]
    bank.index.drop("b")
    assert bank.index.versions("b", "behavior") == {}
    assert other.find("zor") == ["zor: reverse"]
    bank.catch_up()
    bank.check_index_equals_ledger()


def test_a_bank_that_was_deleted_and_begun_anew_starts_from_nothing(bank: Bank) -> None:
    bank.write(["zor: rotate"])
    bank.write(["mil: add"])
    bank.catch_up()
    bank.ledger.delete("b")  # behind the index's back
    bank.write(["kem: sort"])
    assert bank.find("zor mil kem") == ["kem: sort"]
    bank.check_index_equals_ledger()


def test_many_random_changes_leave_index_and_ledger_equal(bank: Bank) -> None:
    chance = np.random.default_rng(0)
    for _ in range(12):
        texts = [" ".join(chance.choice(WORDS, 6)) for _ in range(30)]
        bank.write(texts)
        bank.retire(*chance.choice(texts, 20))
        if chance.random() < 0.5:
            bank.catch_up()
    bank.catch_up()
    bank.check_index_equals_ledger()


def corpus(seed: int, size: int) -> list[str]:
    chance = np.random.default_rng(seed)
    return [f"{n}: " + " ".join(chance.choice(WORDS, chance.integers(3, 12))) for n in range(size)]


@pytest.mark.xdist_group("weaviate")
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_both_indexes_score_alike(weaviate: Server, tmp_path: Path, alpha: float) -> None:
    """Ids, order and scores, after changes too; ties may be ordered either way."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    vectors = Vectors(VectorFile(tmp_path / "vectors.db"), HashEmbedder())
    banks = [Bank(ledger, vectors, each) for each in (ExactIndex(), weaviate.index(f"hash-{uuid4()}"))]
    banks[0].write(corpus(1, 150))
    for each in banks:
        each.catch_up()
    for text in corpus(2, 20):
        check_alike(banks, text, alpha)
    banks[0].retire(*corpus(1, 150)[:40])
    banks[0].write(corpus(3, 30))
    for each in banks:
        each.catch_up()
        each.check_index_equals_ledger()
    for text in corpus(4, 20):
        check_alike(banks, text, alpha, after_changes=True)


def check_alike(banks: list[Bank], text: str, alpha: float, *, after_changes: bool = False) -> None:
    exact, other = (b.index.search("b", "behavior", [b.query(text)], alpha, 20)[0] for b in banks)
    # Weaviate counts removed documents in the statistics of words until it compacts.
    tolerance = 0.05 if after_changes and alpha < 1 else 1e-3
    score = {h.id: h.score for h in exact}
    assert [h.score for h in exact] == pytest.approx([h.score for h in other], abs=tolerance)
    for hit in other[:10]:
        if hit.score > exact[-1].score + tolerance:
            assert score[hit.id] == pytest.approx(hit.score, abs=tolerance)


# ---------------------------------------------------------------- the embedded index alone


def test_a_batch_finds_what_single_questions_find(tmp_path: Path) -> None:
    bank = Bank(
        Ledger(f"sqlite:///{tmp_path / 'l.db'}"), Vectors(VectorFile(tmp_path / "v.db"), HashEmbedder()), ExactIndex()
    )
    bank.write(corpus(1, 400))
    bank.catch_up()
    queries = [bank.query(text) for text in corpus(2, 10)]
    together = bank.index.search("b", "behavior", queries, 0.5, 15)
    for query, hits in zip(queries, together, strict=True):
        (alone,) = bank.index.search("b", "behavior", [query], 0.5, 15)
        assert {h.id for h in hits} == {h.id for h in alone}
        assert [h.score for h in hits] == pytest.approx([h.score for h in alone], abs=1e-5)
    cosines = np.stack([q.vector for q in queries]) @ bank.vectors.of(corpus(1, 400)).T
    texts = {i.id: i.text for i in bank.ledger.active("b", "behavior")}
    nearest = [[texts[h.id] for h in hits] for hits in bank.index.search("b", "behavior", queries, 1.0, 15)]
    for row, found in zip(cosines, nearest, strict=True):
        want = np.sort(row)[::-1][:15]
        assert [row[corpus(1, 400).index(t)] for t in found] == pytest.approx(want, abs=1e-6), "recall is 1"


def test_packing_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.services.memory.index.exact.PACK_ABOVE", 10)
    vectors = Vectors(VectorFile(tmp_path / "v.db"), HashEmbedder())
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.db'}")
    grown, fresh = (Bank(ledger, vectors, ExactIndex()) for _ in range(2))
    for seed in range(6):
        grown.write(corpus(seed, 40))
        grown.catch_up()
        grown.retire(*corpus(seed, 40)[:35])
        grown.catch_up()
    fresh.catch_up()
    for text in corpus(9, 10):
        found = [b.index.search("b", "behavior", [b.query(text)], 0.5, 30)[0] for b in (grown, fresh)]
        assert [(h.id, round(h.score, 5)) for h in found[0]] == [(h.id, round(h.score, 5)) for h in found[1]]
    assert len(grown.index._shelves["b", "behavior"]._entries) < 120  # type: ignore[attr-defined]
