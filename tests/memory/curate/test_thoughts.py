"""One thought at several problems: it is found, reworded and merged wherever it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pmd.services.common.options import MAX_NOTE_CHARS
from tests.memory.desk import RIGHT, B, Desk, if_match
from tests.memory.world import Words

SAID = "rotate then add 3."


@pytest.fixture
def four(desk: Desk) -> Desk:
    """The same thought at four problems."""
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(4)])
    desk.world.reflect(1, Words(lambda _: f"Strategy: {SAID}"), ["p0", "p1", "p2", "p3"])
    return desk


def refs(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": i["id"], "version": i["version"]} for i in items]


def test_a_thought_is_reworded_wherever_it_stands_or_nowhere(four: Desk) -> None:
    one = four.one(level="insight", problem_id="p0")
    same = four.items(same_as=one["id"])
    assert {i["problem_id"] for i in same} == {"p0", "p1", "p2", "p3"}
    others = refs([i for i in same if i["id"] != one["id"]])

    def edit(text: str, also: list[dict[str, Any]], version: int) -> Any:
        path = f"{B}/items/{one['id']}"
        return four.http.patch(path, json={"text": text, "also": also}, headers=if_match(version))

    stale = edit("turn, then add 3.", [*others[1:], others[0] | {"version": 9}], 1)
    assert (stale.status_code, stale.json()["current"]["id"]) == (412, others[0]["id"])
    assert {i["text"] for i in four.items(level="insight")} == {SAID}, "all of them or none"
    for wrong in ([others[0], others[0]], [{"id": one["id"], "version": 1}]):
        assert edit("turn.", wrong, 1).json()["errors"][0]["field"] in {"also", "items"}
    attempt = four.items(level="experience", limit=1)
    assert edit("turn.", refs(attempt), 1).status_code == 409
    assert edit("turn.", [{"id": "none", "version": 1}], 1).status_code == 404
    seq = four.world.ledger.seq("b")
    assert edit("turn, then add 3.", others, 1).json()["version"] == 2
    assert four.world.ledger.seq("b") == seq + 1, "one act"
    assert {(i["text"], i["edited"]) for i in four.items(level="insight")} == {("turn, then add 3.", True)}
    assert four.http.get(f"{B}/items", params={"same_as": "none"}).status_code == 404


def test_two_notes_of_one_problem_are_not_given_the_same_words(four: Desk) -> None:
    new = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": "begin at the end."}
    added = four.post("items", new).json()
    one = four.one(level="insight", problem_id="p0", q="rotate")
    body = {"text": "turn.", "also": refs([added])}
    refused = four.http.patch(f"{B}/items/{one['id']}", json=body, headers=if_match(1))
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "also")


def test_insights_of_different_problems_become_a_behavior_that_stays_their_business(four: Desk) -> None:
    notes = four.items(level="insight")
    asked = {"items": refs(notes[:3]), "text": "whatever it asks: rotate, then add 3."}
    merged = four.post("items:merge", asked).json()
    assert (merged["level"], merged["problem_id"], merged["support"], merged["edited"]) == ("behavior", None, 3, True)
    assert sorted(merged["sources"]) == sorted(i["id"] for i in notes[:3])
    assert [i["id"] for i in four.items(level="insight")] == [notes[3]["id"]]
    four.world.record(2, [(pid, RIGHT, True) for pid in ("p0", "p1", "p2", "p7")])
    for pid in (i["problem_id"] for i in notes[:3]):
        if pid in {"p0", "p1", "p2"}:
            assert "Behavior: whatever it asks" in four.shown(2, pid)
    four.world.reflect(2, Words(lambda _: f"Strategy: {SAID}"), ["p0", "p1", "p2"])
    assert merged["id"] in {i["id"] for i in four.items(level="behavior")}
    again = four.http.get(f"{B}/export").content
    assert four.http.post("/v1/banks/c:import", content=again).status_code == 200, "it can leave and come back"
    provenance = four.http.get(f"{B}/items/{merged['id']}/provenance").json()
    assert {m["how"] for m in provenance["made_from"]} == {"merge"}


def test_a_merged_note_is_refused_by_name_where_it_can_not_be(four: Desk) -> None:
    notes = four.items(level="insight")
    attempt = four.items(level="experience", limit=1)
    assert four.post("items:merge", {"items": refs([notes[0], attempt[0]]), "text": "x y"}).status_code == 409
    stale = [refs(notes)[0], refs(notes)[1] | {"version": 7}]
    assert four.post("items:merge", {"items": stale, "text": "x y"}).status_code == 412
    rules = [
        four.post("items", {"level": "behavior", "text": text, "topic": "zor"}).json() for text in ("turn.", "add.")
    ]
    wrong = four.post("items:merge", {"items": refs(rules), "text": "turn, add.", "topic": "mil"})
    assert wrong.json()["errors"][0]["field"] == "topic"


def test_nothing_proposes_to_retire_what_a_person_wrote_and_nobody_measured(four: Desk) -> None:
    four.post("items", {"level": "behavior", "text": "begin with rotate.", "topic": "zor"})
    four.post("items:merge", {"items": refs(four.items(level="insight", sort="text")[:2]), "text": "rotate, add."})
    for step in (2, 3):
        four.world.record(step, [(f"p{n}", RIGHT, True) for n in range(4)])
        four.world.abstract(step, Words(lambda _: "None"))
    assert four.proposals() == []


@pytest.mark.parametrize("nothing", ["\u200b", "\u2060\u200d", "\u00a0\u200b", "\ufeff", "\u0301"])
def test_a_note_of_which_nothing_can_be_seen_is_none(four: Desk, nothing: str) -> None:
    new = {"level": "insight", "kind": "strategy", "problem_id": "p0", "text": nothing}
    refused = four.post("items", new)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "body.text")
    one = four.one(level="insight", problem_id="p0")
    assert four.edit(one, nothing).status_code == 422


def test_a_key_belongs_to_who_used_it(four: Desk) -> None:
    one = four.one(level="insight", problem_id="p0")
    key = {"Idempotency-Key": "k"}
    assert four.edit(one, "turn.", **key).status_code == 200
    other = four.edit(one, "turn.", **key, **{"X-PMD-Actor": "bob"})
    assert (other.status_code, "another request" in other.json()["title"]) == (409, True)


def test_one_limit_for_one_thing_whichever_way_a_note_becomes_active(four: Desk) -> None:
    """A bank of an older release may hold longer notes: they stay put away."""
    longer = "t" * (MAX_NOTE_CHARS + 1)
    old = {"id": "i", "level": "insight", "kind": "lesson", "scope": "p0", "text": longer, "status": "retired"}
    old |= {"pinned": False, "edited": False, "step": 1, "policy_version": 0, "facts": {}}
    lines = [{"format": "pmd-bank", "version": 1, "bank": "old", "seq": 1}, {"item": old}]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    assert four.http.post(f"{B}:import", content=content).json()["added"] == 1
    put_away = four.one(level="insight", status="retired")
    refused = four.post(f"items/{put_away['id']}:restore", None, put_away["version"])
    assert (refused.status_code, str(MAX_NOTE_CHARS) in refused.json()["title"]) == (409, True)
    dry = four.post("items:bulk", {"action": "restore", "where": {"status": "retired"}}).json()
    assert ([each["id"] for each in dry["refused"]], dry["items"]) == ([put_away["id"]], [])
