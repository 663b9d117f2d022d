"""What machines may not change and people decide: proposals. Law 7."""

from __future__ import annotations

from tests.memory.desk import B, Desk


def test_a_rejected_proposal_is_not_made_again(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    desk.edit(item, "turn it round, then add 3.")
    desk.learn(2)
    proposal = desk.http.get(f"{B}/proposals").json()["proposals"][0]
    assert desk.post(f"proposals/{proposal['id']}:reject").status_code == 200
    desk.learn(3)
    assert proposal["id"] not in {p["id"] for p in desk.http.get(f"{B}/proposals").json()["proposals"]}


def test_a_proposal_that_was_accepted_and_undone_is_made_again(desk: Desk) -> None:
    desk.learn(1)
    edited = desk.edit(desk.one(level="insight"), "turn it round, then add 3.").json()
    desk.learn(2)
    (proposal,) = desk.proposals()
    accepted = desk.post(f"proposals/{proposal['id']}:accept", version=edited["version"]).json()
    desk.learn(3)
    assert desk.proposals() == [], "what it says already is no proposal"
    again = desk.edit(accepted, "begin at the end, then add 3.").json()
    desk.learn(4)
    (proposal,) = desk.proposals()
    assert (proposal["action"], proposal["item_version"], proposal["step"], proposal["decided_by"]) == (
        "replace",
        again["version"],
        4,
        None,
    )
    desk.post(f"proposals/{proposal['id']}:reject")
    desk.learn(5)
    assert desk.proposals() == []


def test_what_was_retired_by_a_proposal_and_restored_is_proposed_again(desk: Desk) -> None:
    desk.learn(1)
    pinned = desk.act(desk.one(level="insight"), "pin")
    for step in range(2, 8):
        desk.learn(step, says="reverse then add 1.", passed=False)
    (proposal,) = desk.proposals()
    retired = desk.post(f"proposals/{proposal['id']}:accept", version=pinned["version"]).json()
    restored = desk.act(retired, "restore")
    desk.learn(8, says="reverse then add 1.", passed=False)
    (again,) = desk.proposals()
    assert (again["action"], again["item_version"], again["status"]) == ("retire", restored["version"], "open")


def test_an_accepted_proposal_brings_its_evidence(desk: Desk) -> None:
    desk.learn(1)
    edited = desk.edit(desk.one(level="insight"), "turn it round, then add 3.").json()
    desk.learn(2)
    (proposal,) = desk.proposals()
    accepted = desk.post(f"proposals/{proposal['id']}:accept", version=edited["version"]).json()
    assert (accepted["sources"], accepted["step"]) == (["1:p0#0", "2:p0#0"], 2)
    assert (accepted["successes"], accepted["trials"]) == (2, 2)
    origins = desk.http.get(f"{B}/items/{accepted['id']}/provenance").json()["made_from"]
    assert {o["id"] for o in origins} == {"1:p0#0", "2:p0#0"}


def test_a_proposal_for_what_is_no_longer_active_can_only_be_rejected(desk: Desk) -> None:
    desk.learn(1)
    edited = desk.edit(desk.one(level="insight"), "turn it round, then add 3.").json()
    desk.learn(2)
    (proposal,) = desk.proposals()
    desk.act(edited, "split", {"texts": ["turn it round.", "then add 3."]})
    now = desk.detail(edited)["item"]
    refused = desk.post(f"proposals/{proposal['id']}:accept", version=now["version"])
    assert (refused.status_code, "superseded" in refused.json()["title"]) == (409, True)
    assert desk.detail(edited)["item"] == now
    assert desk.post(f"proposals/{proposal['id']}:reject").status_code == 200


def test_proposals_come_in_pages(desk: Desk) -> None:
    desk.learn(1)
    item = desk.one(level="insight")
    desk.edit(item, "turn it round, then add 3.")
    (held,) = (i for i in desk.world.ledger.active("b", "insight") if i.protected)
    for n in range(5):
        desk.world.ledger.apply(
            "b", f"proposal {n}", lambda tx, n=n: tx.propose(held, "replace", "run@1", 2, text=f"add {n}.", facts={})
        )
    whole = [p["id"] for p in desk.http.get(f"{B}/proposals").json()["proposals"]]
    assert len(whole) >= 3
    found: list[str] = []
    after = ""
    while after is not None:
        page = desk.http.get(f"{B}/proposals", params={"limit": 2, "after": after}).json()
        found += [p["id"] for p in page["proposals"]]
        after = page["next"]
    assert found == whole
