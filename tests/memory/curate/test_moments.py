"""A bank through time and beside another: named moments, what changed between them, the undoing of an act."""

from __future__ import annotations

from typing import Any

import httpx

from tests.memory.desk import RIGHT, WRONG, B, Desk
from tests.memory.world import Words


def undo(desk: Desk, seq: int | None = None, **headers: str) -> httpx.Response:
    """What a person does: look at what would be undone, and undo it."""
    if seq is None:
        dry = ask(desk, {}, **headers)
        if dry.status_code != 200:
            return dry
        seq = dry.json()["seq"]
    return ask(desk, {"seq": seq, "dry_run": False}, **headers)


def ask(desk: Desk, body: dict[str, Any], **headers: str) -> httpx.Response:
    return desk.http.post(f"{B}:undo", json=body, headers=headers)


def changed(desk: Desk, **asked: Any) -> list[tuple[str, str | None, str]]:
    page = desk.http.get(f"{B}/diff", params=asked).raise_for_status().json()
    return [(c["change"], c["before"] and c["before"]["text"], c["after"]["text"]) for c in page["items"]]


def test_a_named_moment_is_a_name_for_a_seq_and_serves_wherever_one_is_asked_for(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    seq = desk.world.ledger.seq("b")
    made = desk.post("snapshots", {"name": "before-review", "note": "as it was"})
    assert (made.status_code, made.headers["ETag"], made.json()["seq"]) == (201, f'"{seq}"', seq)
    assert made.json()["actor"] == "person:ada"
    desk.edit(item, "turn it round, then add 3.")
    assert changed(desk, since="before-review") == [("changed", item["text"], "turn it round, then add 3.")]
    then, now = (desk.http.get(f"{B}/export", params=p).text for p in ({"seq": "before-review"}, {}))
    assert ("turn it round" in then, "turn it round" in now) == (False, True)
    back = {"seq": "before-review", "dry_run": False}
    assert desk.http.post(f"{B}:rollback", json=back, headers={"If-Match": "*"}).json()["changed"] == 1
    assert desk.one(level="insight")["text"] == item["text"]
    names = desk.http.get(f"{B}/snapshots").json()["snapshots"]
    assert [(s["name"], s["seq"], s["note"]) for s in names] == [("before-review", seq, "as it was")]


def test_a_name_stands_for_one_moment_until_it_is_deleted(desk: Desk) -> None:
    desk.learn(1)
    assert desk.post("snapshots", {"name": "first", "seq": 1}).status_code == 201
    taken = desk.post("snapshots", {"name": "first"})
    assert (taken.status_code, "names seq 1 already" in taken.json()["title"]) == (409, True)
    for wrong in ({"name": "7"}, {"name": "a b"}, {"name": "later", "seq": 99}, {"name": "never", "seq": 0}):
        assert desk.post("snapshots", wrong).status_code == 422, wrong
    at = f"{B}/snapshots/first"
    assert desk.http.get(at).headers["ETag"] == '"1"'
    assert desk.http.delete(at).status_code == 428
    assert desk.http.delete(at, headers={"If-Match": '"2"'}).status_code == 412
    assert desk.http.delete(at, headers={"If-Match": '"1"'}).json() == {"snapshots": []}
    for gone in (desk.http.get(at), desk.http.delete(at, headers={"If-Match": "*"})):
        assert gone.status_code == 404
    for path in ("diff?since=first", "export?seq=first"):
        assert desk.http.get(f"{B}/{path}").status_code == 404
    told = [r for r in desk.http.get(f"{B}/audit").json()["rows"] if r["by_person"]]
    assert [(r["action"], r["detail"]) for r in told] == [
        ("snapshot", {"name": "first", "of": 1}),
        ("delete snapshot", {"name": "first", "of": 1}),
    ]


def test_a_difference_says_what_came_what_went_and_what_changed_page_by_page(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(4)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."))
    since = desk.world.ledger.seq("b")
    pinned, banned, edited, _ = desk.items(level="insight")
    desk.act(pinned, "pin")
    desk.act(banned, "ban")
    desk.edit(edited, "turn, then add 3.")
    desk.post("items", {"level": "behavior", "text": "begin with rotate.", "topic": "zor"})
    said = "rotate then add 3."
    everything = changed(desk, since=since)
    assert sorted(everything, key=str) == sorted(
        [
            ("added", None, "begin with rotate."),
            ("changed", said, "turn, then add 3."),
            ("changed", said, said),
            ("gone", said, said),
        ],
        key=str,
    )
    pages, after = [], ""
    while after is not None:
        page = desk.http.get(f"{B}/diff", params={"since": since, "limit": 1, "after": after}).json()
        pages += page["items"]
        after = page["next"]
    assert len(pages) == 4
    desk.world.record(2, [("p0", RIGHT, True)])
    desk.world.reflect(2, Words(lambda _: "None"), ["p0"])
    assert changed(desk, since=since) == everything, "new evidence is no change"
    passing = desk.post("items", {"level": "behavior", "text": "came and went.", "topic": "zor"})
    assert (passing.status_code, undo(desk).status_code) == (201, 200)
    assert changed(desk, since=since) == everything, "what came and went in between is none either"
    assert changed(desk, since=since, until=since) == []
    assert [c for c, _, _ in changed(desk, since=1, level="experience")] == ["added"]
    assert desk.http.get(f"{B}/diff", params={"since": 5, "until": 2}).json()["errors"][0]["field"] == "since"
    assert desk.http.get(f"{B}/diff", params={"since": 1, "until": 99}).json()["errors"][0]["field"] == "until"


def test_the_last_act_is_undone_and_the_one_before_it_and_an_undo_can_be_undone(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    first, second = "turn it round, then add 3.", "turn it, then add 3."
    desk.edit(desk.edit(item, first).json(), second)
    desk.post(f"items/{item['id']}:annotate", {"text": "a remark changes no memory"})
    dry = ask(desk, {}).json()
    assert (dry["dry_run"], dry["action"], dry["actor"]) == (True, "edit", "person:ada")
    assert dry["items"] == [{"id": item["id"], "version": 3}]
    assert ask(desk, {"dry_run": False}).json()["errors"][0]["field"] == "seq"
    assert desk.one(level="insight")["text"] == second
    done = undo(desk).json()
    assert done | {"dry_run": True, "items": dry["items"]} == dry
    assert desk.one(level="insight")["text"] == first
    again = undo(desk).json()
    now = desk.one(level="insight")
    assert (now["text"], now["edited"], now["version"]) == (item["text"], False, 5)
    assert undo(desk).status_code == 404, "no act is left"
    assert ask(desk, {"seq": again["seq"], "dry_run": False}).status_code == 409, "it is undone already"
    redo = desk.world.ledger.seq("b")
    assert undo(desk, redo).json()["action"] == "undo"
    assert desk.one(level="insight")["text"] == first
    assert undo(desk).json()["seq"] == again["seq"], "in force again, it is the last act again"


def test_an_undo_never_goes_over_what_was_changed_since(desk: Desk) -> None:
    desk.learn(1)
    item = desk.edit(desk.one(level="insight"), "turn it round, then add 3.").json()
    act = ask(desk, {}).json()["seq"]
    desk.act(item, "pin")
    stale = undo(desk, act)
    assert (stale.status_code, stale.json()["current"]["pinned"]) == (412, True)
    assert undo(desk, **{"X-PMD-Actor": "bob"}).status_code == 404, "what others did is undone by its seq alone"
    pin = ask(desk, {}).json()["seq"]
    assert undo(desk, pin, **{"X-PMD-Actor": "bob"}).json()["actor"] == "person:ada"
    assert desk.one(level="insight")["pinned"] is False
    machine = ask(desk, {"seq": 1, "dry_run": False})
    assert (machine.status_code, "no person acted" in machine.json()["title"]) == (404, True)
    remark = desk.post(f"items/{item['id']}:annotate", {"text": "seen"})
    assert remark.status_code == 200
    assert ask(desk, {"seq": desk.world.ledger.seq("b")}).status_code == 409


def test_what_a_machine_learned_since_stays_when_an_act_is_undone(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    desk.act(pinned, "unpin")
    desk.learn(2)
    learned = desk.one(level="insight")
    assert (learned["trials"], learned["version"]) == (2, 4)
    assert undo(desk).status_code == 200
    now = desk.one(level="insight")
    assert (now["pinned"], now["trials"]) == (True, 2)


def test_a_merge_a_split_a_ban_and_a_decision_are_undone_whole(desk: Desk) -> None:
    desk.world.record(1, [("p0", RIGHT, True), ("p0", WRONG, True)])
    says = "Strategy: rotate then add 3.\nStrategy: reverse then add 1."
    desk.world.reflect(1, Words(lambda _: says), ["p0"])
    before = desk.items(level="insight", sort="text")
    refs = [{"id": i["id"], "version": i["version"]} for i in before]
    merged = desk.post("items:merge", {"items": refs, "text": "rotate or reverse, then add."}).json()
    undo(desk)
    after = desk.items(level="insight", sort="text")
    assert [(i["id"], i["status"], i["edited"]) for i in after] == [(i["id"], "active", False) for i in before]
    assert desk.detail(merged)["item"]["status"] == "retired"
    banned = desk.act(after[0], "ban")
    desk.post("items", {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": "anything else"})
    refused = ask(desk, {"seq": banned["seq"], "dry_run": True})
    assert refused.status_code == 200
    undo(desk, banned["seq"])
    assert desk.detail(banned)["item"]["status"] == "active"


def test_an_undo_makes_no_second_note_of_one_thought(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    edited = desk.edit(item, "turn it round, then add 3.").json()
    new = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": item["text"]}
    assert desk.post("items", new).status_code == 201
    refused = undo(desk, edited["seq"])
    assert (refused.status_code, "says the same already" in refused.json()["title"]) == (409, True)


def test_a_decided_proposal_is_open_again(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    (proposal,) = desk.proposals()
    desk.post(f"proposals/{proposal['id']}:reject")
    assert undo(desk).json()["reopened"] == [proposal["id"]]
    assert [p["decided_by"] for p in desk.proposals()] == [None]
    desk.post(f"proposals/{proposal['id']}:accept", version=pinned["version"])
    assert undo(desk).json()["reopened"] == [proposal["id"]]
    assert desk.detail(pinned)["item"]["pinned"] is True


def test_two_banks_are_compared_by_what_their_notes_say_about_what(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(3)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1", "p2"])
    file = desk.http.get(f"{B}/export").content
    assert desk.http.post("/v1/banks/c:import", content=file).status_code == 200
    one, two, _ = desk.items(level="insight", sort="text")
    desk.edit(one, "turn, then add 3.")
    desk.act(two, "ban")
    compared = desk.http.get(f"{B}/compare", params={"other": "c"}).json()
    assert (compared["common"], compared["only_here"], compared["only_there"]) == (1, 1, 2)
    mine = compared["items"][0]
    assert (mine["here"], mine["item"]["text"], mine["elsewhere"]) == (True, "turn, then add 3.", None)
    assert sorted(str(s["elsewhere"]) for s in compared["items"] if not s["here"]) == ["None", "banned"]
    first = desk.http.get(f"{B}/compare", params={"other": "c", "limit": 2}).json()
    rest = desk.http.get(f"{B}/compare", params={"other": "c", "after": first["next"]}).json()
    assert (first["items"] + rest["items"], rest["next"]) == (compared["items"], None)
    assert desk.http.get(f"{B}/compare", params={"other": "none"}).status_code == 404
    assert desk.http.get(f"{B}/compare").status_code == 422


def test_pages_of_a_comparison_go_on_where_the_last_one_ended(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(6)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), [f"p{n}" for n in range(6)])
    file = desk.http.get(f"{B}/export").content
    assert desk.http.post("/v1/banks/c:import", content=file).status_code == 200
    notes = sorted(desk.items(level="insight"), key=lambda item: str(item["problem_id"]))
    for note in notes[1:]:
        desk.edit(note, "turn, then add 3.")

    def page(after: str = "") -> dict[str, Any]:
        return dict(desk.http.get(f"{B}/compare", params={"other": "c", "limit": 4, "after": after}).json())

    first = page()
    desk.edit(notes[0], "turn, then add 3.")  # is told before those of the first page
    second = page(first["next"])
    told = [(side["here"], side["item"]["problem_id"]) for side in (*first["items"], *second["items"])]
    assert told == [(True, f"p{n}") for n in range(1, 6)] + [(False, f"p{n}") for n in range(3)]
    last = page(second["next"])
    assert [side["item"]["problem_id"] for side in last["items"]] == ["p3", "p4", "p5"]
    assert last["next"] is None
    assert desk.http.get(f"{B}/compare", params={"other": "c", "after": "4"}).status_code == 422
