"""What people do to a bank over REST, while the jobs go on. Law 7: a person's word is never lost."""

from __future__ import annotations

from typing import Any

import pytest

from pmd.services.common.options import MAX_NOTE_CHARS, ContextSettings
from tests.memory.desk import RIGHT, WRONG, B, Desk
from tests.memory.world import Words


def test_law_7_an_edit_survives_any_number_of_reflections(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    edited = desk.edit(item, "turn it round, then add 3.").json()
    assert (edited["text"], edited["version"], edited["edited"]) == ("turn it round, then add 3.", 2, True)
    for step in range(2, 6):
        desk.learn(step, says="rotate then add 3." if step == 3 else f"proposal number {step}: rotate then add 3.")
        assert desk.detail(item)["item"] == edited
        assert "turn it round" in desk.shown(step)
    assert desk.detail(item)["history"][-1]["actor"] == "person:ada"


def test_words_that_a_person_changed_and_let_go_of_are_a_note_of_their_own(desk: Desk) -> None:
    desk.learn(1)
    old = desk.one(level="insight")
    desk.act(desk.edit(old, "reverse then add 9.").json(), "unpin")
    desk.learn(2)
    notes = desk.items(level="insight", status="any")
    assert {(n["text"], n["status"]) for n in notes} == {
        ("rotate then add 3.", "active"),
        ("reverse then add 9.", "retired"),  # the attempts that follow it failed
    }
    for note in notes:
        detail = desk.detail(note)
        assert detail["history"][-1]["text"] == detail["item"]["text"] == note["text"]
    desk.learn(3)
    assert len(desk.items(level="insight", status="any")) == 2, "thought again it is found again"


def test_a_note_that_was_reworded_and_let_go_of_is_not_doubled(desk: Desk) -> None:
    desk.learn(1)
    desk.act(desk.edit(desk.one(level="insight"), "rotate first, then add 3 please.").json(), "unpin")
    desk.world.record(2, [("p0", RIGHT, True), ("p0", WRONG, False)])
    desk.world.reflect(2, Words(lambda _: "None"), ["p0"])
    note = desk.one(level="insight")
    assert (note["text"], note["successes"], note["trials"]) == ("rotate first, then add 3 please.", 2, 2)


def test_law_7_a_pin_survives_evidence_against_it_and_the_machine_asks(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    assert desk.detail(pinned)["item"] == pinned
    assert "Strategy: rotate then add 3." in desk.shown(7)
    (proposal,) = desk.http.get(f"{B}/proposals").json()["proposals"]
    assert (proposal["action"], proposal["item_id"]) == ("retire", pinned["id"])
    assert desk.post(f"proposals/{proposal['id']}:accept").status_code == 428
    accepted = desk.post(f"proposals/{proposal['id']}:accept", version=pinned["version"]).json()
    assert (accepted["status"], accepted["pinned"]) == ("retired", False)
    assert desk.post(f"proposals/{proposal['id']}:reject").status_code == 409


def test_edits_take_effect_at_the_next_step_and_the_job_says_so(desk: Desk) -> None:
    desk.learn(1)
    desk.edit(desk.one(level="insight"), "turn it round, then add 3.")
    new = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": "begin at the end: add 3."}
    assert desk.post("items", new).status_code == 201
    before = desk.shown(1)
    assert "rotate then add 3" in before
    assert "turn it round" not in before
    assert "begin at the end" not in before
    counts = desk.world.record(2, [("p0", RIGHT, True)])
    assert counts.edits == 2
    assert desk.world.record(2, [("p0", RIGHT, True)]).edits == 2, "a repeated job says the same"
    assert "turn it round" in desk.shown(2)
    assert desk.world.record(3, [("p0", RIGHT, True)]).edits == 0


def test_a_change_needs_the_version_that_was_seen(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    path = f"{B}/items/{item['id']}"
    assert desk.http.get(path).headers["ETag"] == '"1"'
    assert desk.http.patch(path, json={"text": "x"}).status_code == 428
    assert desk.http.patch(path, json={"text": "x"}, headers={"If-Match": "one"}).status_code == 422
    assert desk.edit(item, "first").headers["ETag"] == '"2"'
    late = desk.edit(item, "second")
    assert late.status_code == 412
    assert late.headers["ETag"] == '"2"'
    assert late.json()["current"]["text"] == "first"
    assert desk.http.patch(path, json={"text": "third"}, headers={"If-Match": "*"}).json()["version"] == 3


def test_a_repeated_request_is_one_change(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    key = {"Idempotency-Key": "k1"}
    first = desk.edit(item, "first", **key)
    again = desk.edit(item, "first", **key)
    assert (again.status_code, again.json(), again.headers["ETag"]) == (200, first.json(), '"2"')
    assert desk.edit(item, "second", **key).status_code == 409
    assert desk.detail(item)["item"]["version"] == 2
    assert len([r for r in desk.http.get(f"{B}/audit").json()["rows"] if r["by_person"]]) == 1


def test_merge_split_and_revert_keep_where_things_came_from(desk: Desk) -> None:
    desk.world.record(1, [("p0", RIGHT, True), ("p0", WRONG, True)])
    says = "Strategy: rotate then add 3.\nStrategy: reverse then add 1."
    desk.world.reflect(1, Words(lambda _: says), ["p0"])
    two = desk.items(level="insight")
    refs = [{"id": i["id"], "version": i["version"]} for i in two]
    assert desk.post("items:merge", {"items": [refs[0], refs[1] | {"version": 9}], "text": "x"}).status_code == 412
    merged = desk.post("items:merge", {"items": refs, "text": "rotate or reverse, then add."}).json()
    assert desk.items(level="insight") == [merged]
    assert set(merged["sources"]) == {"1:p0#0", "1:p0#1"}
    desk.world.record(2, [("p0", RIGHT, True), ("p0", WRONG, True)])
    desk.world.reflect(2, Words(lambda _: says), ["p0"])
    assert {i["id"] for i in desk.items(level="insight")} == {merged["id"]}, "the machine does not undo a merge"
    parts = desk.act(merged, "split", {"texts": ["rotate, then add.", "reverse, then add."]})
    assert {i["text"] for i in desk.items(level="insight")} == {"rotate, then add.", "reverse, then add."}
    assert len(parts) == 2
    edited = desk.edit(parts[0], "spin, then add.").json()
    assert desk.act(edited, "revert", {"version": 1})["text"] == "rotate, then add."
    diff = desk.http.get(f"{B}/items/{edited['id']}/diff", params={"before": 1, "after": 2}).json()
    assert "-rotate, then add." in diff["text"]
    assert "+spin, then add." in diff["text"]


def test_ban_and_restore_pin_and_unpin(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    banned = desk.act(item, "ban")
    assert desk.items(level="insight") == []
    assert desk.post(f"items/{item['id']}:pin", None, banned["version"]).status_code == 409
    restored = desk.act(banned, "restore")
    assert (restored["status"], restored["edited"]) == ("active", True)
    free = desk.act(desk.act(restored, "pin"), "unpin")
    assert (free["pinned"], free["edited"]) == (False, False)
    assert desk.post(f"items/{item['id']}:annotate", {"text": "seen in run 7"}).status_code == 200
    assert [a["text"] for a in desk.detail(item)["annotations"]] == ["seen in run 7"]
    assert desk.detail(item)["item"]["version"] == free["version"]


def test_attempts_are_evidence_and_nobody_rewrites_them(desk: Desk) -> None:
    desk.learn(1)
    attempt = desk.items(level="experience")[0]
    assert desk.edit(attempt, "passed, honestly").status_code == 409
    pinned = desk.act(attempt, "pin")
    for step in range(2, 5):
        desk.world.record(step, [("p0", f"try {step} {n}", False) for n in range(4)], keep=2)
    assert desk.detail(pinned)["item"]["status"] == "active"


def test_bulk_goes_by_a_dry_run_and_is_all_or_nothing(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(4)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1", "p2", "p3"])
    where = {"level": "insight", "q": "rotate"}
    assert desk.post("items:bulk", {"action": "pin", "where": where, "dry_run": False}).status_code == 422
    found = desk.post("items:bulk", {"action": "pin", "where": where}).json()["items"]
    assert len(found) == 4
    seq = desk.world.ledger.seq("b")
    dry = desk.post("items:bulk", {"action": "pin", "items": found}).json()
    assert (dry["items"], desk.world.ledger.seq("b")) == (found, seq)
    stale = [*found[:3], found[3] | {"version": 7}]
    assert desk.post("items:bulk", {"action": "pin", "items": stale, "dry_run": False}).status_code == 412
    assert desk.items(protected=True) == []
    done = desk.post("items:bulk", {"action": "pin", "items": found, "dry_run": False}).json()
    assert {i["version"] for i in done["items"]} == {2}
    assert len(desk.items(protected=True)) == 4


def test_a_dry_run_says_what_the_real_one_does(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(4)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1", "p2", "p3"])
    pinned, banned, *rest = desk.items(level="insight")
    desk.act(pinned, "pin")
    desk.act(banned, "ban")
    dry = desk.post("items:bulk", {"action": "pin", "where": {"level": "insight"}}).json()
    assert sorted(i["id"] for i in dry["items"]) == sorted(i["id"] for i in rest)
    assert ([i["id"] for i in dry["refused"]], dry["unchanged"]) == ([banned["id"]], 1)
    assert "restore it first" in dry["refused"][0]["why"]
    real = {"action": "pin", "dry_run": False}
    now = {"id": banned["id"], "version": 2}
    assert desk.post("items:bulk", real | {"items": [*dry["items"], now]}).status_code == 409
    done = desk.post("items:bulk", real | {"items": dry["items"]}).json()
    assert [i["id"] for i in done["items"]] == [i["id"] for i in dry["items"]]
    assert {i["version"] for i in done["items"]} == {2}
    assert desk.post("items:bulk", {"action": "pin", "where": {"protected": True}}).json()["unchanged"] == 3
    twice = desk.post("items:bulk", {"action": "ban", "items": done["items"] * 2, "dry_run": False})
    assert (twice.status_code, twice.json()["errors"][0]["field"]) == (422, "items")


def test_who_asks_for_what_is_so_already_is_in_the_audit_log(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    ref = {"id": pinned["id"], "version": pinned["version"]}
    again = desk.post("items:bulk", {"action": "pin", "items": [ref], "dry_run": False}).json()
    assert (again["items"], again["unchanged"]) == ([], 1)
    now = desk.world.ledger.seq("b")
    desk.http.post(f"{B}:rollback", json={"seq": now - 1, "dry_run": False}, headers={"If-Match": "*"})
    rows = [r for r in desk.http.get(f"{B}/audit").json()["rows"] if r["seq"] >= now]
    assert [(r["actor"], r["action"], r["item_id"]) for r in rows] == [
        ("person:ada", "pin", None),
        ("person:ada", "rollback", None),
    ]


def test_a_note_that_was_put_away_is_restored_before_it_is_reworded(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    (proposal,) = desk.proposals()
    retired = desk.post(f"proposals/{proposal['id']}:accept", version=pinned["version"]).json()
    refused = desk.edit(retired, "turn it round, then add 3.")
    assert (refused.status_code, "is retired; restore it first" in refused.json()["title"]) == (409, True)
    assert desk.post(f"items/{retired['id']}:revert", {"version": 1}, retired["version"]).status_code == 409
    edited = desk.edit(desk.act(retired, "restore"), "turn it round, then add 3.").json()
    assert edited["status"] == "active"


@pytest.mark.parametrize("topic", ["zor", "Zor-Mil", "zor mil"])
def test_a_behavior_by_hand_is_shown_where_the_problem_speaks_of_its_topic(desk: Desk, topic: str) -> None:
    desk.learn(1)
    assert desk.post("items", {"level": "behavior", "topic": topic, "text": "begin with rotate."}).status_code == 201
    desk.learn(2)
    assert "begin with rotate." in desk.shown(2)


def test_a_rollback_brings_back_what_was_and_keeps_what_happened(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    seq = desk.world.ledger.seq("b")
    desk.edit(item, "edited")
    desk.post("items", {"level": "behavior", "text": "always rotate", "topic": "zor"})
    now = desk.world.ledger.seq("b")
    assert desk.http.post(f"{B}:rollback", json={"seq": seq, "dry_run": False}).status_code == 428
    headers = {"If-Match": f'"{now}"'}
    dry = desk.http.post(f"{B}:rollback", json={"seq": seq}).json()
    done = desk.http.post(f"{B}:rollback", json={"seq": seq, "dry_run": False}, headers=headers).json()
    assert dry | {"dry_run": False} == done == {"dry_run": False, "changed": 1, "retired": 1}
    assert [i["text"] for i in desk.items(level="insight")] == [item["text"]]
    assert desk.items(level="behavior") == []
    assert [v["text"] for v in desk.detail(item)["history"]] == [item["text"], "edited", item["text"]]
    late = desk.http.post(f"{B}:rollback", json={"seq": seq, "dry_run": False}, headers=headers)
    assert late.status_code == 412


def test_every_seq_is_in_the_audit_log(desk: Desk) -> None:
    desk.learn(1)
    item = desk.edit(desk.one(level="insight"), "first").json()
    desk.act(item, "pin")
    desk.learn(2)
    rows: list[dict[str, Any]] = []
    after = ""
    while page := desk.http.get(f"{B}/audit", params={"after": after, "limit": 2}).json():
        if not page["rows"]:
            break
        rows += page["rows"]
        after = page["next"]
    assert [r["seq"] for r in rows] == list(range(1, desk.world.ledger.seq("b") + 1))
    assert [r["action"] for r in rows if r["by_person"]] == ["edit", "pin"]
    assert {r["actor"] for r in rows if r["by_person"]} == {"person:ada"}


def test_bad_input_is_refused_by_name(desk: Desk) -> None:
    desk.learn(1)
    assert desk.http.get(f"{B}/items", params={"after": "junk"}).json()["errors"][0]["field"] == "after"
    wrong = {"level": "insight", "kind": "strategy", "problem_id": "p7", "text": "x"}
    assert desk.post("items", wrong).json()["errors"][0]["field"] == "problem_id"
    assert desk.post("items", wrong | {"text": "a\x00b"}).status_code == 422
    assert desk.post("items", wrong | {"txt": "a"}).status_code == 422
    for part in ("", "/items", "/audit", "/proposals", "/export", "/search?q=x"):
        assert desk.http.get(f"/v1/banks/none{part}").status_code == 404, part
    assert desk.http.post("/v1/banks/none/items", json=wrong).status_code == 404


def test_a_note_that_no_context_has_room_for_is_refused_when_it_is_written(desk: Desk) -> None:
    """One limit for one thing: what may be written fits the memory block."""
    assert ContextSettings().max_chars > MAX_NOTE_CHARS
    desk.learn(1)
    item = desk.one(level="insight")
    new = {"level": "insight", "kind": "lesson", "problem_id": "p0"}
    longest, longer = "t" * MAX_NOTE_CHARS, "t" * (MAX_NOTE_CHARS + 1)
    for refused in (
        desk.post("items", new | {"text": longer}),
        desk.edit(item, longer),
        desk.post(f"items/{item['id']}:split", {"texts": ["rotate.", longer]}, item["version"]),
    ):
        assert refused.status_code == 422
        assert str(MAX_NOTE_CHARS) in refused.text
    assert desk.post("items", new | {"text": longest}).status_code == 201
    desk.learn(2)
    assert longest in desk.shown(2)


def test_an_edit_that_says_nothing_is_refused(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    answer = desk.http.patch(f"{B}/items/{item['id']}", json={}, headers={"If-Match": '"1"'})
    assert answer.status_code == 422
    assert desk.detail(item)["item"] == item
