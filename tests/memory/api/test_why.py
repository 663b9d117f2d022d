"""Why a note is not shown here: an answer for each note, step and problem, from the record of the step."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pmd.services.common.artifacts import read_table
from pmd.services.common.options import ContextSettings, QualitySettings
from pmd.services.common.requests import RetrieveRequest
from pmd.services.memory.retrieve.contexts import retrieve
from tests.memory.desk import RIGHT, WRONG, B, Desk
from tests.memory.world import PROMPTS, Words


def why(desk: Desk, item: dict[str, Any], **asked: Any) -> dict[str, Any]:
    return dict(desk.http.get(f"{B}/items/{item['id']}/why", params=asked).raise_for_status().json())


def here(desk: Desk, item: dict[str, Any], pid: str = "p0", **asked: Any) -> tuple[bool, str | None, str]:
    (found,) = (p for p in why(desk, item, **asked)["problems"] if p["problem_id"] == pid)
    return found["shown"], found["cause"], found["reason"]


def add(desk: Desk, text: str, **more: Any) -> dict[str, Any]:
    new = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": text} | more
    return dict(desk.post("items", new).raise_for_status().json())


def test_what_is_shown_and_what_is_too_long_contradicted_or_a_leak_each_say_so(desk: Desk) -> None:
    desk.learn(1)
    shown = desk.one(level="insight")
    long = add(desk, "zor-mil: " + "slowly " * 60)
    leak = add(desk, "it is [1, 4, 1, 5] for [3, 1]", kind="lesson")
    desk.world.record(2, [("p0", RIGHT, True), ("p0", WRONG, False)])
    desk.world.retrieve(2, max_chars=300, conflicts="resolve")
    assert here(desk, shown)[:2] == (True, None)
    is_shown, cause, reason = here(desk, long)
    assert (is_shown, cause) == (False, "no_room")
    assert "context.max_chars" in reason
    assert here(desk, leak)[:2] == (False, "leaks")
    against = add(desk, "rotate then negate.")
    desk.world.record(3, [("p0", RIGHT, True), ("p0", "Plan: rotate then negate.", False)])
    desk.world.retrieve(3)
    assert here(desk, shown)[:2] == (False, "contradicted")
    assert here(desk, shown, step=2)[0] is True, "each step has its own answer"
    assert against["id"] in here(desk, shown)[2]


def test_what_is_not_believed_or_held_out_says_so(desk: Desk) -> None:
    desk.world.record(1, [("p0", RIGHT, True)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0"])
    note = desk.one(level="insight")
    for step in (2, 3):
        desk.world.record(step, [("p0", RIGHT, False)] * 6)
    desk.world.retrieve(3)
    shown, cause, reason = here(desk, note)
    assert (shown, cause) == (False, "not_believed")
    assert "of 13 attempts" in reason
    causes = set()
    for step in range(4, 12):
        desk.world.record(step, [("p0", RIGHT, True)] * 8)
        request = RetrieveRequest(
            bank="b",
            problems=desk.world.problems_ref,
            problem_ids=["p0"],
            step=step,
            settings=ContextSettings(excerpt_chars=64),
            evidence="terms",
            quality=QualitySettings(hold_out=0.5),
            prompts=PROMPTS,
            out=f"file://{desk.world.folder}/held{step}.parquet",
        )
        retrieve(desk.world.ledger, desk.world.search, request, desk.world.job(f"h{step}"))
        causes.add(here(desk, note)[:2])
    assert {(True, None), (False, "held_out")} <= causes


def test_a_behavior_beyond_k_and_one_of_another_topic_say_so(desk: Desk) -> None:
    desk.learn(1)
    rules = [add(desk, f"every zor {way}.", level="behavior", kind="behavior", problem_id=None, topic="zor")
             for way in ("rotates", "swaps")]  # fmt: skip
    other = add(desk, "every pav turns.", level="behavior", kind="behavior", problem_id=None, topic="pav")
    desk.world.record(2, [("p0", RIGHT, True)])
    desk.world.retrieve(2, k=1, conflicts="show")
    told = {here(desk, rule)[:2] for rule in rules}
    assert told == {(True, None), (False, "beyond_k")}
    about = why(desk, other)
    assert (about["problems"], about["others"]) == ([], 1)
    assert "topic 'pav'" in about["reason"]
    asked = why(desk, other, problem_id="p0")
    assert [p["shown"] for p in asked["problems"]] == [False]


def test_what_a_step_could_not_know_is_told_by_when(desk: Desk) -> None:
    desk.learn(1)
    first = desk.one(level="insight")
    late = add(desk, "begin at the end: add 3.")  # after the step has begun
    desk.act(first, "ban")
    desk.world.retrieve(1)
    told = why(desk, late)
    assert (told["status"], told["problems"][0]["shown"]) == (None, False)
    assert "had begun" in told["problems"][0]["reason"]
    assert here(desk, first)[0] is True, "the step goes on with what it began with"
    desk.world.record(2, [("p0", RIGHT, True)])
    desk.world.retrieve(2)
    told = why(desk, first)
    assert (told["status"], told["problems"][0]["shown"]) == ("banned", False)
    assert "a person had banned it" in told["problems"][0]["reason"]
    assert why(desk, late)["problems"][0]["shown"] is True


def test_what_is_asked_of_nothing_is_a_404(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    path = f"{B}/items/{item['id']}/why"
    assert desk.http.get(path).status_code == 404, "no contexts yet"
    desk.world.retrieve(1)
    for asked in ({"step": 9}, {"problem_id": "p5"}):
        assert desk.http.get(path, params=asked).status_code == 404
    assert desk.http.get(f"{B}/items/none/why").status_code == 404
    assert desk.http.get(path, params={"step": -1}).status_code == 422


def test_a_record_of_an_older_release_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    desk.world.retrieve(1)
    contexts = read_table

    def older(ref: Any) -> list[dict[str, Any]]:
        old = {"id": item["id"], "version": 1, "level": "insight", "reason": "no room"}
        return [row | {"items": "[]", "left_out": json.dumps([old])} for row in contexts(ref)]

    monkeypatch.setattr("pmd.services.memory.api.explain.read_table", older)
    assert here(desk, item) == (False, None, "no room")
