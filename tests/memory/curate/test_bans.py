"""What must never be shown again: what a person has banned, and copies of a passing program, whoever writes them."""

from __future__ import annotations

import pytest

from pmd.services.common.artifacts import load_messages, read_table
from tests.memory.desk import RIGHT, WRONG, B, Desk
from tests.memory.world import Words


@pytest.mark.parametrize("again", ["rotate then add 3.", "ROTATE  then\tAdd 3", "  Rotate then add 3!"])
def test_a_banned_text_is_never_shown_again_from_the_next_step_on(desk: Desk, again: str) -> None:
    desk.learn(1)
    desk.act(desk.one(level="insight"), "ban", {"reason": "wrong in general"})
    assert "Strategy: rotate" in desk.shown(1), "this step goes on with what it began with"
    for step in (2, 3):
        desk.world.record(step, [("p0", RIGHT, True), ("p1", RIGHT, True)])
        desk.world.reflect(step, Words(lambda _: f"Strategy: {again}"), ["p0", "p1"])
        assert desk.items(level="insight") == [], "it is not even written"
        assert "Strategy" not in desk.shown(step)
        assert "Strategy" not in desk.shown(step, "p1"), "a ban is of the text, whichever problem it is about"
    added = {"level": "insight", "kind": "strategy", "problem_id": "p1", "text": again}
    assert desk.post("items", added).status_code == 409, "people can't bring it back by another door either"


def test_a_banned_item_is_not_freed_by_an_old_proposal(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    (proposal,) = desk.http.get(f"{B}/proposals").json()["proposals"]
    banned = desk.act(pinned, "ban")
    assert desk.post(f"proposals/{proposal['id']}:accept", version=banned["version"]).status_code == 409
    assert desk.detail(pinned)["item"]["status"] == "banned"
    assert desk.post(f"proposals/{proposal['id']}:reject").status_code == 200


def test_a_rollback_lifts_no_ban(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    before = desk.world.ledger.seq("b")
    desk.act(item, "ban")
    now = {"If-Match": f'"{desk.world.ledger.seq("b")}"'}
    done = desk.http.post(f"{B}:rollback", json={"seq": before, "dry_run": False}, headers=now)
    assert done.json() == {"dry_run": False, "changed": 0, "retired": 0}
    assert desk.detail(item)["item"]["status"] == "banned"
    desk.learn(2)
    assert "Strategy" not in desk.shown(2)


def test_a_rollback_brings_back_no_text_that_another_item_bans(desk: Desk) -> None:
    desk.learn(1)
    rule = {"level": "behavior", "topic": "zor", "text": "alpha rule one two"}
    first = desk.post("items", rule).json()
    before = desk.world.ledger.seq("b")
    desk.edit(first, "beta rule changed entirely")
    desk.act(desk.post("items", rule).json(), "ban")
    done = desk.http.post(f"{B}:rollback", json={"seq": before, "dry_run": False}, headers={"If-Match": "*"})
    assert done.json() == {"dry_run": False, "changed": 1, "retired": 0}
    assert desk.items(level="behavior") == []
    assert desk.detail(first)["item"]["status"] == "retired"


DRESSES = [
    "**Rotate**, then add 3!",
    "rotate\u200b then add 3.",
    "`rotate` -- then ADD 3",
    "Remember: rotate then add 3, as before.",
]


@pytest.mark.parametrize("again", DRESSES)
def test_a_banned_text_stays_away_in_any_dress(desk: Desk, again: str) -> None:
    desk.learn(1)
    desk.act(desk.one(level="insight"), "ban")
    for step in (2, 3):
        desk.world.record(step, [("p0", RIGHT, True), ("p1", RIGHT, True)])
        desk.world.reflect(step, Words(lambda _: f"Strategy: {again}"), ["p0", "p1"])
        assert desk.items(level="insight") == []
        assert "add 3" not in desk.shown(step).lower()
        assert "add 3" not in desk.shown(step, "p1").lower()


@pytest.mark.parametrize("level", ["experience", "insight"])
def test_a_solution_that_says_what_is_banned_is_no_demonstration(desk: Desk, level: str) -> None:
    desk.learn(1)
    desk.act(desk.one(level=level, q="rotate"), "ban")
    sibling = "Plan: Rotate, then add 3.\n```python\ndef f(): ...\n```"
    other = "Plan: swap and reverse.\n```python\ndef f(): ...\n```"
    desk.world.record(2, [("p0", sibling, True), ("p0", other, True), ("p0", WRONG, False)])
    rows = read_table(desk.world.retrieve(2, demonstrations="any").contexts)
    assert [row["demonstration"] for row in rows] == ["p0#1", None, "p0#1"]


def test_a_banned_attempt_at_one_problem_hides_no_solution_of_another(desk: Desk) -> None:
    desk.world.record(1, [("p0", "<answer>B</answer>", False)])
    desk.act(desk.one(level="experience"), "ban")
    right = "Four bonds, so it is sp3.\n<answer>B</answer>"
    desk.world.record(2, [("p0", right, True), ("p0", WRONG, False), ("p1", right, True), ("p1", WRONG, False)])
    rows = read_table(desk.world.retrieve(2, demonstrations="any").contexts)
    assert [row["demonstration"] for row in rows] == [None, None, None, "p1#2"]


def test_a_ban_of_short_words_leaves_other_notes_alone(desk: Desk) -> None:
    desk.learn(1, says="add 3.")
    desk.act(desk.one(level="insight"), "ban")
    desk.learn(2, says="rotate then add 3.")
    assert "Strategy: rotate then add 3." in desk.shown(2)


def test_a_banned_attempt_is_not_shown_when_it_is_made_again(desk: Desk) -> None:
    program = "```python\nreturn 1\n```"
    desk.world.record(1, [("p0", f"Plan: turn it round and go.\n{program}", True)])
    desk.act(desk.one(level="experience"), "ban")
    desk.world.record(2, [("p0", f"plan:  Turn it round and go\n{program}\n", True), ("p0", "Plan: other.", False)])
    desk.world.record(3, [("p0", "Plan: other.", False)])
    levels = ["experience", "insight", "behavior"]
    rows = desk.world.retrieve(3, demonstrations="none", feedback="never", levels=levels).contexts
    said = "".join(m.content for r in read_table(rows) for m in load_messages(r["messages"]))
    assert "Failed: Plan: other." in said
    assert "urn it round" not in said


def test_a_copy_of_a_passing_program_is_not_shown_whoever_writes_it(desk: Desk) -> None:
    program = "```python\ndef solve(a):\n    b = [a[1], a[0]]\n    return b + [sum(b), len(b)]\n```"
    desk.world.record(1, [("p0", f"{RIGHT}\n{program}", True), ("p1", RIGHT, True)])
    copied = "set q = [x[1], x[0]] and return q + [sum(q), len(q)]"
    for pid in ("p0", "p1"):
        new = {"level": "insight", "kind": "strategy", "problem_id": pid, "text": f"zor-mil: {copied}"}
        assert desk.post("items", new).status_code == 201
    assert desk.post("items", {"level": "behavior", "topic": "zor", "text": f"always {copied}"}).status_code == 201
    desk.world.record(2, [("p0", f"{RIGHT}\n{program}", True)])
    assert "sum" not in desk.shown(2), "not by hand, not through kin, not as a behavior"


def test_items_that_were_banned_for_one_text_are_restored_together(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(2)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1"])
    found = desk.post("items:bulk", {"action": "ban", "where": {"level": "insight"}}).json()["items"]
    banned = desk.post("items:bulk", {"action": "ban", "items": found, "dry_run": False}).json()["items"]
    alone = desk.post(f"items/{banned[0]['id']}:restore", None, banned[0]["version"])
    assert alone.status_code == 409
    assert "bulk" in alone.json()["title"]
    both = desk.post("items:bulk", {"action": "restore", "items": banned, "dry_run": False})
    assert both.status_code == 200, both.text
    assert {i["status"] for i in desk.items(level="insight")} == {"active"}


def test_of_two_banned_items_that_say_the_same_of_the_same_one_comes_back(desk: Desk) -> None:
    desk.learn(1)
    first = desk.one(level="insight")
    away = desk.act(first, "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    (proposal,) = desk.http.get(f"{B}/proposals").json()["proposals"]
    desk.post(f"proposals/{proposal['id']}:accept", version=away["version"])
    again = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": first["text"]}
    assert desk.post("items", again).status_code == 201
    where = {"level": "insight", "q": "rotate"}
    found = desk.post("items:bulk", {"action": "ban", "where": where}).json()["items"]
    assert len(found) == 2
    desk.post("items:bulk", {"action": "ban", "items": found, "dry_run": False})
    dry = desk.post("items:bulk", {"action": "restore", "where": where | {"status": "banned"}}).json()
    assert (len(dry["items"]), dry["refused"]) == (2, [])
    one = desk.post("items:bulk", {"action": "restore", "items": dry["items"][:1]}).json()
    assert (one["items"], len(one["refused"])) == ([], 1), "the other one's ban is of the same text"
    assert desk.post("items:bulk", {"action": "restore", "items": dry["items"], "dry_run": False}).status_code == 200
    assert sorted(i["status"] for i in desk.items(level="insight", q="rotate", status="any")) == ["active", "retired"]
