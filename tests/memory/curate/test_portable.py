"""Export and import: what another run did stays what it was, and is not taken for what this one does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pmd.services.common.artifacts import load_messages, read_table
from pmd.services.common.options import MAX_NOTE_CHARS, ContextSettings
from pmd.services.common.requests import RecordRequest, RetrieveRequest
from pmd.services.memory.curate import portable
from pmd.services.memory.ledger import Item, UnknownBank
from pmd.services.memory.retrieve.contexts import retrieve
from pmd.services.memory.write.record import record
from tests.memory.desk import RIGHT, WRONG, B, Desk
from tests.memory.world import PROMPTS, Words

C = "/v1/banks/c"


def move(desk: Desk, origin: str = "b", bank: str = "c") -> dict[str, Any]:
    """Import what `origin` exports into `bank`."""
    file = desk.http.get(f"/v1/banks/{origin}/export").content
    answer = desk.http.post(f"/v1/banks/{bank}:import", content=file)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def items(desk: Desk, bank: str = "c", **params: Any) -> list[dict[str, Any]]:
    asked = {"status": "any", "sort": "oldest", "limit": 500, **params}
    return list(desk.http.get(f"/v1/banks/{bank}/items", params=asked).raise_for_status().json()["items"])


def record_into(desk: Desk, bank: str, step: int, text: str, passed: bool, keep: int = 16) -> None:
    rollouts, verdicts = desk.world.batch(step, [("p0", text, passed)])
    given = {"problems": desk.world.problems_ref, "keep_attempts": keep}
    request = RecordRequest(bank=bank, step=step, rollouts=rollouts, verdicts=verdicts, **given)
    record(desk.world.ledger, request, desk.world.job(f"{bank}.s{step}.record"))


def shown_in(desk: Desk, bank: str, step: int) -> str:
    """What a teacher is shown of p0 by the attempts of a bank."""
    request = RetrieveRequest(
        bank=bank,
        problems=desk.world.problems_ref,
        problem_ids=["p0"],
        step=step,
        settings=ContextSettings(levels=("experience",)),
        prompts=PROMPTS,
        out=f"file://{desk.world.folder}/{bank}.parquet",
    )
    found = retrieve(desk.world.ledger, desk.world.search, request, desk.world.job(f"{bank}.s{step}.retrieve"))
    return load_messages(read_table(found.contexts)[0]["messages"])[-1].content


def test_an_attempt_of_another_run_keeps_its_verdict_beside_the_one_of_the_same_name(desk: Desk) -> None:
    desk.world.record(1, [("p0", "Plan: of the old run.", True)])
    move(desk)
    record_into(desk, "c", 1, "Plan: of the new run.", passed=False)
    attempts = {i["text"]: (i["sources"], i["successes"], i["version"]) for i in items(desk)}
    assert attempts == {
        "Plan: of the old run.": (["b/1:p0#0"], 1, 1),
        "Plan: of the new run.": (["1:p0#0"], 0, 1),
    }


def test_rollouts_carry_the_name_of_the_run_that_made_them_however_often_they_move(desk: Desk) -> None:
    desk.learn(1)
    move(desk)
    record_into(desk, "c", 1, "Plan: of the new run.", passed=False)
    move(desk, "c", "d")
    attempts = {i["sources"][0]: i for i in items(desk, "d", level="experience")}
    assert attempts.keys() == {"b/1:p0#0", "b/1:p0#1", "c/1:p0#0"}
    (note,) = items(desk, "d", level="insight")
    made_from = desk.http.get(f"/v1/banks/d/items/{note['id']}/provenance").json()["made_from"]
    assert [link["id"] for link in made_from] == note["sources"] == ["b/1:p0#0"]
    made = desk.http.get(f"/v1/banks/d/items/{attempts['b/1:p0#0']['id']}/provenance").json()["made"]
    assert [link["id"] for link in made] == [note["id"]]
    assert move(desk, "d", "b")["added"] == 1, "b knows what it made; it did not know what c made"


def test_steps_of_another_run_are_over_before_the_next_of_this_one(desk: Desk) -> None:
    for step in (38, 39, 40):
        desk.world.record(step, [("p0", f"Plan: old {step}.", True)])
    move(desk)
    assert "old 40" in shown_in(desk, "c", 1)
    for step in (1, 2, 3):
        record_into(desk, "c", step, f"Plan: new {step}.", passed=True, keep=4)
    active = [i.text for i in desk.world.ledger.active("c", "experience")]
    assert active == ["Plan: old 40.", "Plan: new 1.", "Plan: new 2.", "Plan: new 3."]
    desk.world.record(41, [("p0", "Plan: old 41.", True)])
    move(desk)
    assert {i["text"]: i["step"] for i in items(desk)}["Plan: old 41."] == 3


def test_a_bank_that_was_lost_comes_back_with_its_steps_and_rollouts(desk: Desk) -> None:
    desk.learn(1)
    desk.learn(2)
    before = sorted(items(desk, "b"), key=lambda i: i["id"])
    file = desk.http.get(f"{B}/export").content
    assert desk.http.delete(B, headers={"If-Match": "*"}).status_code == 204
    assert desk.http.post(f"{B}:import", content=file).json()["added"] == len(before)
    after = sorted(items(desk, "b"), key=lambda i: i["id"])
    assert [i | {"seq": 0, "version": 0} for i in after] == [i | {"seq": 0, "version": 0} for i in before]


def test_what_a_person_wrote_comes_along_beside_what_a_machine_dropped_in_the_same_words(desk: Desk) -> None:
    desk.learn(1, says="swap then add 7.")
    desk.learn(2)
    for step in range(3, 9):
        desk.world.record(step, [("p0", "Plan: swap then add 7.", False), ("p0", RIGHT, True)])
        desk.world.reflect(step, Words(lambda _: "Strategy: rotate then add 3."), ["p0"])
    dropped = desk.one(level="insight", kind="strategy", status="retired")
    edited = desk.edit(desk.one(level="insight", kind="strategy"), dropped["text"]).json()
    notes = sorted((i["text"], i["status"], i["edited"]) for i in items(desk, "b", level="insight"))
    move(desk)
    assert sorted((i["text"], i["status"], i["edited"]) for i in items(desk, level="insight")) == notes
    assert move(desk)["added"] == 0
    assert move(desk, "b", "b")["added"] == 0
    record_into(desk, "d", 1, RIGHT, passed=True)
    desk.world.ledger.apply("d", "k", lambda tx: tx.write([_dropped(dropped["text"])], "run@0"))
    move(desk, "b", "d")
    assert [i["edited"] for i in items(desk, "d", level="insight", status="active", kind="strategy")] == [True]
    again = desk.http.get(f"{B}/items/{edited['id']}").json()["item"]
    assert again == edited


def _dropped(text: str) -> Item:
    return Item(level="insight", kind="strategy", scope="p0", text=text, step=1, policy_version=0, status="retired")


def test_a_merge_keeps_what_it_was_made_of_and_so_does_a_split(desk: Desk) -> None:
    desk.world.record(1, [("p0", RIGHT, True)])
    for text in ("first rule", "second rule"):
        assert desk.post("items", {"level": "behavior", "text": text}).status_code == 201
    two = [{"id": i["id"], "version": i["version"]} for i in desk.items(level="behavior")]
    merged = desk.post("items:merge", {"items": two, "text": "first rule"}).json()
    other = desk.post("items", {"level": "behavior", "text": "both rules"}).json()
    split = {"texts": ["one of both", "both rules"]}
    assert desk.post(f"items/{other['id']}:split", split, other["version"]).status_code == 200
    assert move(desk)["added"] == len(items(desk, "b"))
    for bank in ("b", "c"):
        active = {i["text"]: i["id"] for i in items(desk, bank, level="behavior", status="active")}
        origins = {}
        for text, item_id in active.items():
            found = desk.http.get(f"/v1/banks/{bank}/items/{item_id}/provenance").json()["made_from"]
            origins[text] = sorted((link["how"], link["item"]["text"], link["item"]["status"]) for link in found)
        assert origins == {
            "first rule": [("merge", "first rule", "superseded"), ("merge", "second rule", "superseded")],
            "one of both": [("split", "both rules", "superseded")],
            "both rules": [("split", "both rules", "superseded")],
        }
    assert merged["id"] not in {i["id"] for i in items(desk)}


def test_a_split_of_a_merge_is_made_of_the_merge_alone(desk: Desk) -> None:
    desk.world.record(1, [("p0", RIGHT, True)])
    for text in ("first rule", "second rule"):
        assert desk.post("items", {"level": "behavior", "text": text}).status_code == 201
    two = [{"id": i["id"], "version": i["version"]} for i in desk.items(level="behavior")]
    merged = desk.post("items:merge", {"items": two, "text": "both rules"}).json()
    split = desk.post(f"items/{merged['id']}:split", {"texts": ["one", "the other"]}, merged["version"]).json()
    again = [{"id": i["id"], "version": i["version"]} for i in split]
    assert desk.post("items:merge", {"items": again, "text": "one and the other"}).status_code == 201
    move(desk)
    for bank in ("b", "c"):
        for note in items(desk, bank, level="behavior"):
            found = desk.http.get(f"/v1/banks/{bank}/items/{note['id']}/provenance").json()["made_from"]
            expected = {
                "both rules": [("merge", "first rule"), ("merge", "second rule")],
                "one": [("split", "both rules")],
                "the other": [("split", "both rules")],
                "one and the other": [("merge", "one"), ("merge", "the other")],
            }
            assert sorted((link["how"], link["item"]["text"]) for link in found) == expected.get(note["text"], [])


def test_whatever_a_model_said_leaves_and_comes_back(desk: Desk) -> None:
    desk.world.record(1, [("p0", "", False), ("p0", " \n", False), ("p0", WRONG, False)])
    lines = desk.http.get(f"{B}/export").text.splitlines()
    lines = [line.replace("reverse", "rev\\u0000erse") for line in lines]
    answer = desk.http.post(f"{C}:import", content="\n".join(lines))
    assert answer.status_code == 200, answer.text
    assert {i["text"] for i in items(desk)} == {"", " \n", WRONG.replace("reverse", "rev\ufffderse")}


@pytest.mark.parametrize("known", [True, False])
def test_two_notes_of_one_id_are_refused(desk: Desk, known: bool) -> None:
    desk.learn(1)
    lines = desk.http.get(f"{B}/export").text.splitlines()
    double = json.loads(lines[-1])
    double["item"]["text"] += "" if known else " else"
    answer = desk.http.post(f"{C}:import", content="\n".join([*lines, json.dumps(double)]))
    assert answer.json()["errors"][0]["field"] == f"line {len(lines) + 1}: item.id"


def test_a_bank_moves_to_another_run_by_a_file(desk: Desk) -> None:
    desk.learn(1)
    desk.act(desk.one(level="insight"), "pin")
    desk.post("items", {"level": "behavior", "text": "always rotate", "topic": "zor"})
    file = desk.http.get(f"{B}/export").content
    done = desk.http.post("/v1/banks/other:import", content=file).json()
    assert (done["added"], done["known"], done["problems"]) == (4, 0, 1)
    assert desk.http.post("/v1/banks/other:import", content=file).json()["added"] == 0
    moved = desk.http.get("/v1/banks/other/items", params={"level": "insight"}).json()["items"]
    assert [(i["text"], i["pinned"]) for i in moved] == [("rotate then add 3.", True)]
    assert desk.world.ledger.seq("other") == 2
    snapshot = desk.http.get(f"{B}/export", params={"seq": 1}).text.splitlines()
    assert {json.loads(line).get("item", {}).get("level") for line in snapshot[2:]} == {"experience"}


IMPORTED: dict[str, Any] = {
    **{"id": "x", "level": "insight", "kind": "strategy", "scope": "p0", "text": "t", "status": "active"},
    **{"pinned": False, "edited": False, "step": 1, "policy_version": 0, "facts": {}},
}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("no json", "line 2"),
        ('{"item": {"level": "wisdom"}}', "line 2: item"),
        ('{"itme": 1}', "line 2: itme"),
        (
            '{"problem": {"id": "t", "split": "test", "messages": [{"role": "user", "content": "?"}], "verifier": {}}}',
            "line 2: problem.split",
        ),
        ("{}", "line 2"),
        ('{"item": ITEM, "problem": null}', "line 2: item.scope"),
        ('{"item": ITEM"step": 99999999999999999999}}', "line 2: item.step"),
        ('{"item": ITEM"facts": {"passes": "many"}}}', "line 2: item.facts.passes"),
        ('{"item": ITEM"facts": {"leak": 5}}}', "line 2: item.facts.leak"),
        ('{"item": ITEM"facts": {"sources": [1]}}}', "line 2: item.facts.sources"),
        ('{"item": ITEM"level": "behavior", "kind": "behavior"}}', "line 2: item.facts.topic"),
        ('{"item": ITEM"kind": "attempt"}}', "line 2: item.kind"),
        ('{"item": ITEM"text": " "}}', "line 2: item.text"),
        ('{"item": ITEM"text": "%s"}}' % ("t" * (MAX_NOTE_CHARS + 1)), "line 2: item.text"),
        ('{"item": ITEM"scope": "%s"}}' % ("p" * 501), "line 2: item.scope"),
        ('{"item": ITEM"id": "\\u0000"}}', "line 2: item.id"),
        ('{"item": ITEM"facts": {"sources": ["\\u0000"]}}}', "line 2: item.facts.sources"),
        ('{"item": ITEM"facts": {"sources": ["%s"]}}}' % ("s" * 501), "line 2: item.facts.sources"),
        ('{"item": ITEM"facts": {"split_from": "\\u0000"}}}', "line 2: item.facts.split_from"),
        ('{"item": ITEM"text": "\\ud800"}}', "line 2"),
        ("\xff", "line 2"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(desk: Desk, line: str, field: str) -> None:
    desk.learn(1)
    head = '{"format": "pmd-bank", "version": 1, "bank": "x", "seq": 1}'
    if "ITEM" in line:
        changed = json.loads(line.replace("ITEM", "{", 1).replace("{, ", "{}, ", 1))
        line = json.dumps({"item": IMPORTED | changed["item"]})
    answer = desk.http.post("/v1/banks/fresh:import", content=f"{head}\n{line}\n".encode("latin-1"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert desk.http.get("/v1/banks/fresh").status_code == 404


def test_an_export_is_one_moment_however_long_it_takes(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n % 8}", f"Plan: {n}.", True) for n in range(900)], keep=200)
    ledger = desk.world.ledger
    seq = ledger.seq("b")
    pages = portable.pages(ledger, "b", None)
    first = [next(pages), next(pages), next(pages)]
    desk.world.record(2, [("p0", "Plan: later.", True)], keep=2)
    lines = [json.loads(line) for page in [*first, *pages] for line in page.splitlines()]
    items = [line["item"] for line in lines if "item" in line]
    assert lines[0]["seq"] == seq
    assert len(items) == 900
    assert {i["status"] for i in items} == {"active"}, "what was retired meanwhile is as it was"
    assert ledger.counts("b").experience < 900
    assert max(len(page) for page in first) < 400 * 1000


def test_an_export_ends_with_an_error_when_its_bank_is_deleted_meanwhile(desk: Desk) -> None:
    desk.learn(1)
    pages = portable.pages(desk.world.ledger, "b", None)
    next(pages)
    next(pages)
    desk.world.ledger.delete("b")
    with pytest.raises(UnknownBank):
        list(pages)


def test_a_bank_that_takes_in_its_own_export_knows_what_was_edited(desk: Desk) -> None:
    desk.learn(1)
    desk.edit(desk.one(level="insight"), "turn it round, then add 3.")
    file = desk.http.get(f"{B}/export").content
    assert desk.http.post(f"{B}:import", content=file).json()["added"] == 0
    assert [i["text"] for i in desk.items(level="insight")] == ["turn it round, then add 3."]
