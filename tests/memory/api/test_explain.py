"""Law 8: every teacher context can be explained afterwards, at the versions that it showed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pmd.services.common.artifacts import load_messages, read_table
from tests.memory.desk import RIGHT, Desk, open_desk
from tests.memory.world import Words


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(url, tmp_path) as opened:
        yield opened


def explained(desk: Desk, rollout: str) -> dict[str, object]:
    answer = desk.http.get(f"/v1/contexts/{quote(rollout, safe=':')}", params={"bank": "b"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_law_8_a_context_is_told_as_the_teacher_saw_it_even_after_edits(desk: Desk) -> None:
    desk.learn(1)
    contexts = desk.world.retrieve(1).contexts
    row = next(r for r in read_table(contexts) if r["prompt_id"] == "p0#1")
    desk.edit(desk.one(level="insight"), "other words")
    told = explained(desk, "1:p0#1")
    assert told["messages"] == [m.model_dump() for m in load_messages(row["messages"])]
    assert (told["seq"], told["demonstration"]) == (2, "p0#0")
    (item,) = told["items"]  # type: ignore[misc]
    assert (item["version"], item["text"], item["sources"]) == (1, "rotate then add 3.", ["1:p0#0"])
    assert "1 of 1 attempts" in item["reason"]
    desk.world.record(2, [("p0", RIGHT, True)])
    desk.world.retrieve(2)
    (item,) = explained(desk, "2:p0#0")["items"]  # type: ignore[misc]
    assert (item["version"], item["text"]) == (2, "other words")
    assert "a person's wording" in item["reason"]


def test_law_8_a_repeated_job_is_told_by_its_last_contexts(desk: Desk) -> None:
    desk.learn(1)
    desk.world.retrieve(1)
    desk.edit(desk.one(level="insight"), "swap then add 7.")
    desk.world.retrieve(1)  # the same key: the job was killed after its contexts were noted
    told = desk.http.get("/v1/contexts/1:p0%230", params={"bank": "b"}).raise_for_status().json()
    assert told["seq"] == desk.world.ledger.seq("b")
    assert [item["text"] for item in told["items"]] == ["rotate then add 3."]


def test_provenance_goes_both_ways(desk: Desk) -> None:
    world = desk.world
    world.record(1, [(pid, RIGHT, pid < "p4") for pid in sorted(world.problems)])
    world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1", "p2", "p3"])
    world.abstract(1, Words(lambda p: "Behavior: every zor begins with rotate." if "rotate" in p else "None"))
    world.retrieve(1)
    attempt = desk.one(level="experience", problem_id="p0")
    insight = desk.one(level="insight", problem_id="p0")

    def about(item: dict[str, object]) -> dict[str, list[dict[str, object]]]:
        return dict(desk.http.get(f"/v1/banks/b/items/{item['id']}/provenance").raise_for_status().json())

    assert [m["id"] for m in about(attempt)["made"]] == [insight["id"]]
    assert [(m["id"], m["how"]) for m in about(insight)["made_from"]] == [("1:p0#0", "reflected")]
    behaviors = {m["id"] for m in about(insight)["made"]}
    assert behaviors == {b["id"] for b in desk.items(level="behavior")} != set()
    uses = about(insight)["uses"]
    assert [(u["step"], u["problem_id"], u["version"], u["shown"]) for u in uses] == [(1, "p0", 1, True)]


def test_what_is_unknown_or_gone_is_said_so(desk: Desk, tmp_path: Path) -> None:
    desk.learn(1)
    desk.world.retrieve(1)
    for rollout, status in (("1:p0%239", 404), ("7:p0%230", 404), ("p0", 422), ("x:p0", 422)):
        assert desk.http.get(f"/v1/contexts/{rollout}", params={"bank": "b"}).status_code == status
    (tmp_path / "s1" / "contexts.parquet").unlink()
    gone = desk.http.get("/v1/contexts/1:p0%230", params={"bank": "b"})
    assert (gone.status_code, "can't be read any more" in gone.json()["title"]) == (404, True)
