"""A run's bank begins with an exported one: once, whole, and each note says where it was written first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pmd.services.common.artifacts import ArtifactError, write_bytes
from pmd.services.common.requests import Imported, ImportRequest
from pmd.services.memory.curate.changes import Invalid
from pmd.services.memory.curate.start import start
from tests.memory.desk import RIGHT, B, Desk
from tests.memory.world import Words


@pytest.fixture
def exported(desk: Desk) -> bytes:
    """A bank with a step of attempts, notes of them, and a note by hand; its run's model is named."""
    desk.world.record(3, [(f"p{n}", RIGHT, True) for n in range(3)])
    desk.world.reflect(3, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1", "p2"])
    desk.post("items", {"level": "behavior", "text": "begin with rotate.", "topic": "zor"})
    head, *rest = desk.http.get(f"{B}/export").text.splitlines()
    return "\n".join([json.dumps(json.loads(head) | {"model": "big/Model"}), *rest, ""]).encode()


def begin(desk: Desk, content: bytes, bank: str = "c", key: str = "c.s0000.import.1") -> Imported:
    file = write_bytes(f"file://{desk.world.folder}/start.jsonl", content)
    return start(desk.world.ledger, ImportRequest(bank=bank, file=file), desk.world.job(key))


def items(desk: Desk, bank: str = "c", **asked: Any) -> list[dict[str, Any]]:
    return list(desk.http.get(f"/v1/banks/{bank}/items", params=asked).raise_for_status().json()["items"])


def test_a_bank_begins_with_another_one_once(desk: Desk, exported: bytes) -> None:
    done = begin(desk, exported)
    assert (done.experience, done.insight, done.behavior, done.seq) == (3, 3, 1, 1)
    assert (done.origin, done.model) == ("b", "big/Model")
    assert begin(desk, exported) == done, "a job that is repeated changes nothing"
    assert {i["step"] for i in items(desk)} == {0}, "all that the run itself writes is newer"
    (row,) = [r for r in desk.http.get("/v1/banks/c/audit").json()["rows"] if r["action"] == "import"]
    assert (row["actor"], row["by_person"]) == ("import", False)


def test_each_note_says_who_wrote_it_first_and_no_evidence_takes_that_away(desk: Desk, exported: bytes) -> None:
    begin(desk, exported)
    there = {i["text"]: i["id"] for i in desk.items(problem_id="p0", level="insight")}
    (note,) = items(desk, problem_id="p0", level="insight")
    assert note["origin"] == {
        "run": "b", "model": "big/Model", "policy_version": 2, "id": there["rotate then add 3."],
    }  # fmt: skip
    world = desk.world
    world.bank = "c"
    world.record(1, [("p0", RIGHT, True)])
    world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0"])
    (now,) = items(desk, problem_id="p0", level="insight")
    assert (now["version"], now["origin"]) == (2, note["origin"])
    again = desk.http.get("/v1/banks/c/export").content
    assert desk.http.post("/v1/banks/d:import", content=again).status_code == 200
    (third,) = items(desk, "d", problem_id="p0", level="insight")
    assert third["origin"] == note["origin"], "the first one, however many banks it came through"
    provenance = desk.http.get(f"/v1/banks/d/items/{third['id']}/provenance").json()
    assert provenance["item"]["origin"] == note["origin"]


def test_what_was_written_here_says_nothing_of_another_bank(desk: Desk, exported: bytes) -> None:
    assert {i["origin"] for i in desk.items()} == {None}
    assert desk.http.post(f"{B}:import", content=exported).json()["added"] == 0
    assert {i["origin"] for i in desk.items()} == {None}, "back in its own bank"


def test_a_file_that_changed_or_is_wrong_fills_nothing(desk: Desk, exported: bytes) -> None:
    file = write_bytes(f"file://{desk.world.folder}/start.jsonl", exported)
    write_bytes(file.uri, exported + b"\n")
    with pytest.raises(ArtifactError, match="changed after it was written"):
        start(desk.world.ledger, ImportRequest(bank="c", file=file), desk.world.job("k"))
    with pytest.raises(Invalid):
        begin(desk, exported + b"{\n")
    wrong = exported.replace(b'"rollout_id"', b'"origin": {"run": 3}, "rollout_id"', 1)
    with pytest.raises(Invalid, match="where it was written first"):
        begin(desk, wrong)
    assert desk.http.get("/v1/banks/c").status_code == 404


def test_an_import_can_be_tried_before_it_is_done(desk: Desk, exported: bytes) -> None:
    tried = desk.http.post("/v1/banks/c:import", params={"dry_run": True}, content=exported).json()
    assert tried == {"seq": 0, "dry_run": True, "added": 7, "known": 0, "problems": 3}
    assert desk.http.get("/v1/banks/c").status_code == 404, "nothing is there"
    bad = desk.http.post("/v1/banks/c:import", params={"dry_run": True}, content=exported + b"{\n")
    assert bad.status_code == 422
    done = desk.http.post("/v1/banks/c:import", content=exported).json()
    assert done == tried | {"seq": 1, "dry_run": False}
