"""Which index answers does not decide what a teacher sees: the same items, in the same order, for the same reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from bench.same_items import differences
from pmd.services.common.artifacts import read_table
from pmd.services.common.wire import Level
from pmd.services.memory.index.embedders import EmbedderSpec
from pmd.services.memory.index.exact import ExactIndex
from pmd.services.memory.index.index import Hit, Query
from pmd.services.memory.index.search import Remote, Search
from pmd.services.memory.index.vectors import VectorFile
from tests.memory.world import Words, World

PLANS = ("rotate then add 3.", "reverse then add 1.", "rotate then drop the last.", "sort, then add 3.")


class Elsewhere(ExactIndex):
    """The embedded index as a server would answer: ids and scores, no cosines."""

    name = "elsewhere"

    def search(self, bank: str, level: Level, queries: Sequence[Query], alpha: float, limit: int) -> list[list[Hit]]:
        found = super().search(bank, level, queries, alpha, limit)
        return [[replace(hit, cosine=None) for hit in hits] for hits in found]

    def ping(self) -> None: ...

    def drop_generation(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(params=["elsewhere", pytest.param("weaviate", marks=pytest.mark.xdist_group("weaviate"))])
def remote(request: pytest.FixtureRequest) -> Remote:
    if request.param == "elsewhere":
        return Elsewhere()
    index: Remote = request.getfixturevalue("weaviate").index(f"hash-{uuid4()}")
    return index


def items(world: World, step: int, **settings: Any) -> list[tuple[str, Any]]:
    rows = read_table(world.retrieve(step, **settings).contexts)
    return [(row["prompt_id"], json.loads(row["items"])) for row in rows]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_both_indexes_show_the_same_items(world: World, remote: Remote, alpha: float) -> None:
    embedded = world.search
    there = Search(world.ledger, VectorFile(world.folder / "other.db"), EmbedderSpec(), SecretStr(""), lambda _: remote)
    settings: dict[str, Any] = {
        "by_meaning": ("insight", "behavior"),
        "k": 3,
        "vector_weight": alpha,
        "min_similarity": 0.1,
        "foreign_similarity": 0.1,
    }
    by_meaning = 0
    for step in range(1, 5):
        plan = PLANS[step - 1]
        world.record(step, [(pid, f"Plan: {plan}\n```", n % 3 > 0) for n, pid in enumerate(world.problems)])
        named = Words(lambda p, plan=plan: f"Strategy: {p.split('Apply ')[1].split('.')[0]}: {plan}")  # type: ignore[misc]
        world.reflect(step, named, [pid for pid in world.problems if pid not in ("p6", "p7")])
        world.abstract(step, Words(lambda _, plan=plan: f"Behavior: every zor: {plan}"))  # type: ignore[misc]
        world.search = embedded
        here = items(world, step, **settings)
        world.search = there
        assert items(world, step, **settings) == here
        assert world.retrieve(step, **settings).index == remote.name
        by_meaning += sum("asks the like" in item["reason"] for _, shown in here for item in shown)
    assert by_meaning, "the index is asked for something"
    there.close()


def test_the_comparison_of_two_runs_sees_a_difference(world: World, tmp_path: Path) -> None:
    world.record(1, [(pid, "Plan: rotate.\n```", True) for pid in world.problems])
    world.reflect(1, Words(lambda _: "Strategy: rotate."))
    for run in ("a", "b", "c"):
        world.retrieve(1, k=3 if run != "c" else 0, levels=("insight", "behavior") if run != "c" else ())
        (tmp_path / run / "steps" / "00001").mkdir(parents=True)
        made = tmp_path / "s1" / "contexts.parquet"
        made.rename(tmp_path / run / "steps" / "00001" / "retrieve.1.parquet")
    assert differences(tmp_path / "a", tmp_path / "b") == (8, [])
    contexts, found = differences(tmp_path / "a", tmp_path / "c")
    assert contexts == 8
    assert found[0].startswith("step 00001, p0#0")
