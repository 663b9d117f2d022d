"""The review queue: notes by what they did to the reward, whoever looks sees the worst first."""

from __future__ import annotations

from typing import Any

from pmd.services.common.wire import Ref
from pmd.services.memory.ledger import Use
from tests.memory.desk import RIGHT, B, Desk
from tests.memory.world import Words

NOWHERE = Ref(uri="file:///none", sha256="", bytes=0)


def measured(desk: Desk, effects: dict[str, float]) -> None:
    """Sixteen steps in which contexts showed a note of each problem, or held it out: with it the reward is .5 plus its
    effect, else .5; attempts without memory get .25."""
    notes = {i["problem_id"]: i for i in desk.items(level="insight")}
    for step in range(2, 18):
        shown = step % 2 == 0
        uses = [Use(pid, notes[pid]["id"], 1, 1.0, 1.0, shown, 0.25) for pid in effects]
        desk.world.ledger.note_contexts("b", f"j{step}", step, 1, NOWHERE, uses)
        rewards = {pid: 0.5 + effect * shown for pid, effect in effects.items()}
        desk.world.ledger.apply("b", f"r{step}", lambda tx, s=step, r=rewards: tx.reward(s, r))


def queue(desk: Desk, **asked: Any) -> dict[str, Any]:
    return dict(desk.http.get(f"{B}/review", params=asked).raise_for_status().json())


def order(page: dict[str, Any]) -> list[str]:
    return [row["item"]["problem_id"] for row in page["rows"]]


def test_the_queue_goes_by_measured_effect(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(4)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), ["p0", "p1", "p2", "p3"])
    assert (queue(desk)["rows"], queue(desk)["unmeasured"]) == ([], 4)
    measured(desk, {"p0": 0.5, "p1": -0.5, "p2": 0.0})
    worst = queue(desk)
    assert (order(worst), worst["unmeasured"]) == (["p1", "p2", "p0"], 1)
    assert order(queue(desk, sort="best")) == ["p0", "p2", "p1"]
    assert order(queue(desk, sort="unsure"))[0] == "p2"
    bad = worst["rows"][0]["utility"]
    assert (bad["shown"], bad["held_out"], bad["reward"], bad["reward_held_out"]) == (8, 8, 0.0, 0.5)
    assert bad["reward_without_memory"] == 0.25
    assert bad["lift"] < 0 < 0.5 - bad["belief"]
    item = worst["rows"][0]["item"]
    assert desk.http.get(f"{B}/items/{item['id']}/utility").json() == bad
    first = queue(desk, limit=2)
    assert order(first) + order(queue(desk, limit=2, after=first["next"])) == order(worst)
    assert order(queue(desk, min_trials=17)) == []
    desk.act(item, "ban")
    assert order(queue(desk)) == ["p2", "p0"]
    assert order(queue(desk, status="banned")) == ["p1"]
    assert desk.http.get(f"{B}/review", params={"sort": "worse"}).status_code == 422
    assert desk.http.get("/v1/banks/none/review").status_code == 404


def test_a_page_goes_on_behind_the_last_note_whatever_happened_to_those_before(desk: Desk) -> None:
    desk.world.record(1, [(f"p{n}", RIGHT, True) for n in range(6)])
    desk.world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."), [f"p{n}" for n in range(6)])
    measured(desk, {f"p{n}": 0.1 * n - 0.25 for n in range(6)})
    first = queue(desk, limit=2)
    assert order(first) == ["p0", "p1"]
    desk.act(first["rows"][0]["item"], "ban")
    second = queue(desk, limit=2, after=first["next"])
    assert order(second) == ["p2", "p3"], "p0 left the queue, and nobody is passed over"
    desk.act(desk.items(level="insight", problem_id="p0", status="banned")[0], "restore")
    last = queue(desk, limit=2, after=second["next"])
    assert (order(last), last["next"]) == (["p4", "p5"], None), "p0 is back before them, and nobody comes twice"
    for after in (first["next"][:-4], "2", "WzFd"):
        assert desk.http.get(f"{B}/review", params={"after": after}).status_code == 422
    other = desk.http.get(f"{B}/review", params={"sort": "best", "after": first["next"]})
    assert "keep `sort`" in other.text


def test_the_queue_names_the_open_proposals_of_its_notes(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    measured(desk, {"p0": -0.5})
    (row,) = queue(desk)["rows"]
    assert (row["item"]["id"], row["proposals"]) == (pinned["id"], [p["id"] for p in desk.proposals()])
