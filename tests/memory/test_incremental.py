"""A step reads what its problems need, whatever else the bank holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from pmd.services.common.artifacts import read_table
from pmd.services.common.wire import Problem
from pmd.services.memory.index import vectors
from pmd.services.memory.index.embed import HashEmbedder, Rows
from pmd.services.memory.ledger import CLUSTER, Ledger, clusters, reads, rows
from pmd.services.memory.write import pools
from tests.memory.ledger.test_ledger import note
from tests.memory.world import Words, World, code_problem

FAMILIES = ("harbour tide anchor mooring", "glacier moraine ice valley", "sonnet rhyme quatrain verse")


def question(n: int) -> Problem:
    """Of the families in turn: problems of one ask the like."""
    family = FAMILIES[n % len(FAMILIES)]
    return code_problem(f"p{n:04}", f"{family}: {family}, task {n}?")


def bank(folder: Path, size: int) -> World:
    """A bank in which `size` problems were tried; as many more, and ten, are new to it."""
    folder.mkdir(exist_ok=True)
    world = World(folder, [question(n) for n in range(2 * size + 10)])
    world.evidence = "effect"
    step(world, 1, range(size))
    return world


def said(prompt: str) -> str:
    """Another strategy for each question, and a rule for each cluster."""
    if "|" in prompt:
        asked = prompt.split("|")[1]
        return f"Strategy: at {asked.split()[0]} {asked.split()[-1].strip('?')} look twice."
    return f"Behavior: as {prompt.splitlines()[0]}"


def step(world: World, number: int, problems: range) -> Words:
    """A whole step of these problems; the prompts for rules."""
    ids = [question(n).id for n in problems]
    world.record(number, [(pid, f"try {number}", ok) for pid in ids for ok in (True, False)])
    world.reflect(number, Words(said), ids)
    asked = Words(said)
    world.abstract(number, asked, clustering="embeddings")
    world.retrieve(number, levels=("experience", "insight", "behavior"), render="both", min_similarity=0.1)
    return asked


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the items and problems that are made of rows, and the texts whose vectors are looked up."""
    seen: Counter[str] = Counter()
    item_of, validate, of = rows.item_of, Problem.model_validate_json, vectors.Vectors.of

    def item(row: Any) -> Any:
        seen["items"] += 1
        return item_of(row)

    def problem(body: str) -> Problem:
        seen["problems"] += 1
        return validate(body)

    def texts(self: Any, of_texts: Any, *args: Any) -> Any:
        seen["texts"] += len(of_texts)
        return of(self, of_texts, *args)

    with monkeypatch.context() as patch:
        for module in (rows, reads):
            patch.setattr(module, "item_of", item)
        patch.setattr(Problem, "model_validate_json", problem)
        patch.setattr(vectors.Vectors, "of", texts)
        yield seen


def test_a_step_reads_no_more_of_a_bank_that_is_ten_times_as_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    for size in (30, 300):
        world = bank(tmp_path / str(size), size)
        step(world, 2, range(3))
        with counted(monkeypatch) as seen:
            step(world, 3, range(size, size + 6))
        read.append(seen)
    small, large = read
    assert small["items"] > 0
    assert small["problems"] > 0
    assert {what: large[what] <= 1.2 * small[what] for what in small} == dict.fromkeys(small, True), (small, large)


GROWING = "items|versions|links|uses|members|problems"
"""Tables that have rows for each problem."""
WALKS = re.compile(rf"SCAN ({GROWING})|SEARCH ({GROWING}) .*\((bank=\?|bank=\? AND level=\? AND status=\?)\)")
"""Of a query plan: all rows of a table or of a bank, or all active ones of a level."""


def test_no_statement_of_a_step_walks_the_whole_bank(tmp_path: Path) -> None:
    world = bank(tmp_path, 30)
    step(world, 2, range(3))
    said: dict[str, Any] = {}

    def heard(_: Any, __: Any, statement: str, values: Any, ___: Any, many: bool) -> None:
        said[statement] = values[0] if many else values

    sa.event.listen(sa.Engine, "before_cursor_execute", heard)
    step(world, 3, range(30, 36))
    sa.event.remove(sa.Engine, "before_cursor_execute", heard)
    walks = []
    with world.ledger.read() as db:
        for statement, values in said.items():
            if statement.startswith(("SELECT", "UPDATE", "INSERT")):
                plan = [row.detail for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
                walks += [(line, statement) for line in plan if WALKS.search(line) and "settled" not in line]
    assert len(said) > 20
    assert not walks


def test_what_an_index_finds_beyond_what_is_shown_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = bank(tmp_path, 6)
    rules = [
        note(f"{FAMILIES[0]} {n}", level="behavior", kind="behavior", scope=f"{CLUSTER}{n}", facts={"topic": ""})
        for n in range(100)
    ]
    world.ledger.apply("b", "rules", lambda tx: tx.write(rules, "run@1"))
    for number in (2, 3):
        world.record(number, [(question(0).id, "try again", True)])
        with counted(monkeypatch) as seen:
            result = world.retrieve(number, levels=("behavior",), k=2, foreign_similarity=0.1)
    (row,) = read_table(result.contexts)
    assert len(json.loads(row["items"])) + len(json.loads(row["left_out"])) == 2
    assert seen["items"] < 50


def cluster_of(world: World) -> dict[str, str]:
    with world.ledger.read() as db:
        return clusters.everybody(db, "b")


def test_clusters_keep_their_names_and_their_problems_and_only_changed_ones_are_asked_about(
    url: str, tmp_path: Path
) -> None:
    world = World(tmp_path, [question(n) for n in range(40)], url)
    world.evidence = "effect"
    assert len(step(world, 1, range(12)).asked) == len(FAMILIES)
    first = cluster_of(world)
    assert set(first.values()) == {"cluster:p0000", "cluster:p0001", "cluster:p0002"}
    rules = {item.scope: item for item in world.ledger.active("b", "behavior")}
    assert len(step(world, 2, range(12, 16, 3)).asked) == 1, "a cluster that nothing was learnt about is left alone"
    assert cluster_of(world) == first | {"p0012": "cluster:p0000", "p0015": "cluster:p0000"}
    now = {item.scope: item for item in world.ledger.active("b", "behavior")}
    assert now["cluster:p0001"] == rules["cluster:p0001"]
    assert now["cluster:p0000"].facts["members"] == 6
    assert step(world, 2, range(12, 16, 3)).asked == [], "a job that is repeated finds nothing left to do"


def test_problems_wait_until_enough_ask_the_like(tmp_path: Path) -> None:
    world = bank(tmp_path, 2)
    assert cluster_of(world) == {}
    step(world, 2, range(3, 5))
    assert cluster_of(world) == {}, "two of each family"
    assert step(world, 3, range(6, 7)).asked
    assert cluster_of(world) == dict.fromkeys(("p0000", "p0003", "p0006"), "cluster:p0000")


def test_a_rule_goes_with_the_strategies_under_it(tmp_path: Path) -> None:
    world = bank(tmp_path, 9)
    gone = [i for i in world.ledger.active("b", "insight") if i.scope in {"p0000", "p0003"}]
    world.ledger.apply("b", "gone", lambda tx: tx.set_status(gone, "retired", 2, "run@1"))
    world.abstract(2, Words(said), clustering="embeddings")
    assert {i.scope for i in world.ledger.active("b", "behavior")} == {"cluster:p0001", "cluster:p0002"}
    assert cluster_of(world)["p0000"] == "cluster:p0000", "they still ask the like"


def test_what_one_abstraction_has_no_room_for_is_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "CLUSTERS", 2)
    world = bank(tmp_path, 9)
    assert len(world.ledger.active("b", "behavior")) == 2
    world.abstract(2, Words(said), clustering="embeddings")
    assert len(world.ledger.active("b", "behavior")) == 3


def test_a_job_that_dies_before_its_model_answers_is_the_same_when_repeated(tmp_path: Path) -> None:
    class Away(Exception):
        pass

    def dies(_: str) -> str:
        raise Away

    folders = [tmp_path / name for name in ("steady", "killed")]
    for folder in folders:
        folder.mkdir()
    steady, killed = (World(folder, [question(n) for n in range(12)]) for folder in folders)
    for world in (steady, killed):
        world.evidence = "effect"
        world.record(1, [(pid, "try", True) for pid in world.problems])
        world.reflect(1, Words(said))
    with pytest.raises(Away):
        killed.abstract(1, Words(dies), clustering="embeddings")
    for world in (steady, killed):
        world.abstract(1, Words(said), clustering="embeddings")
    assert cluster_of(steady) == cluster_of(killed)
    rules = [
        [(i.scope, i.text, i.facts["sources"]) for i in w.ledger.active("b", "behavior")] for w in (steady, killed)
    ]
    assert rules[0] == rules[1] != []


class Turned(HashEmbedder):
    """Another embedder, which finds the same alike."""

    def __init__(self) -> None:
        self.id = "turned"

    def embed(self, texts: Any) -> Rows:
        return np.ascontiguousarray(super().embed(texts)[:, ::-1])


def test_another_embedder_finds_the_same_clusters(tmp_path: Path) -> None:
    world = bank(tmp_path, 12)
    before = cluster_of(world)
    world.search._now = world.search._generation(world.search._now.spec)
    world.search._now.vectors._embedder, world.search._now.vectors.id = Turned(), "turned"
    step(world, 2, range(12, 15))
    assert cluster_of(world) == before | {"p0012": "cluster:p0000", "p0013": "cluster:p0001", "p0014": "cluster:p0002"}
    with world.ledger.read() as db:
        centres = clusters.centres(db, "b")
    assert {c.embedder for c in centres} == {"turned"}
    named = {c.id: np.frombuffer(c.sum, dtype=np.float32) for c in centres}
    members = [pid for pid, cluster in cluster_of(world).items() if cluster == "cluster:p0000"]
    texts = [world.problems[pid].question() for pid in members]
    assert np.allclose(named["cluster:p0000"], Turned().embed(texts).sum(axis=0), atol=1e-5)


def sizes(ledger: Ledger) -> tuple[dict[str, int], dict[str, int]]:
    """Active items by level as the bank counts them, and as they are."""
    counts = ledger.counts("b").model_dump()
    levels: Any = ("experience", "insight", "behavior")
    return {level: counts[level] for level in levels}, {level: len(ledger.active("b", level)) for level in levels}


def test_a_bank_knows_its_size_through_all_that_changes_it(both: World) -> None:
    both.record(1, [(pid, "Plan: rotate.", True) for pid in ("p0", "p1")], keep=4)
    both.reflect(1, Words(lambda _: "Strategy: rotate."), ["p0", "p1"])
    both.record(2, [("p0", f"Plan: rotate {n}.", True) for n in range(6)], keep=4)
    (first, *_) = both.ledger.active("b", "insight")
    both.ledger.apply("b", "k", lambda tx: tx.set_status([first], "retired", 2, "run@1"))
    both.ledger.apply("b", "l", lambda tx: tx.set_status([first], "quarantined", 2, "run@1"))
    counted_, there = sizes(both.ledger)
    assert counted_ == there == {"experience": 5, "insight": 1, "behavior": 0}
    both.ledger.apply("b", "m", lambda tx: tx.write([note(first.text, scope=first.scope, step=3)], "run@3"))
    counted_, there = sizes(both.ledger)
    assert counted_ == there
    assert there["insight"] == 2


def test_the_contexts_of_a_bank_by_terms_are_what_they_were(world: World) -> None:
    """Digests of what commit 013072c showed: pocket's results must not move."""
    plans = ("rotate", "reverse", "sort", "drop one")
    for number in (1, 2, 3):
        tries = [
            (pid, f"Plan: {plans[(n + number) % 4]} then {plans[(n * number) % 4]}.", (n + number) % 3 > 0)
            for n, pid in enumerate(world.problems)
        ]
        world.record(number, tries)
        world.reflect(number, Words(lambda p: f"Strategy: {p.split('|')[1].split()[1]} {plans[len(p) % 4]}."))
        world.abstract(number, Words(lambda p: f"Behavior: every zor begins with {plans[len(p) % 4]}."))
    asked: list[dict[str, Any]] = [
        {},
        {"by_meaning": ("insight", "behavior"), "k": 2},
        {"render": "both", "levels": ("experience", "insight")},
    ]
    digests = []
    for settings in asked:
        rows_ = [list(row.values())[:6] for row in read_table(world.retrieve(3, **settings).contexts)]
        digests.append(hashlib.sha256(json.dumps(rows_).encode()).hexdigest()[:16])
    assert digests == ["ec9dc72a02a8fd8b", "ec9dc72a02a8fd8b", "380a6ddd94e408cd"]
