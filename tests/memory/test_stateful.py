"""Whatever people do to a bank in whatever order, while the loop goes on: what they decided holds."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pmd.services.common.artifacts import read_table
from pmd.services.memory.ledger import Banned, fingerprint
from tests.memory.desk import RIGHT, WRONG, B, Desk, if_match, open_desk
from tests.memory.world import Words

TEXTS = st.sampled_from(
    [
        "rotate then add 3.",
        "ROTATE  then add 3",
        "reverse then add 1.",
        "zor-mil: rotate then add 3.",
        "every zor begins with rotate",
        "turn it round, then add 3.",
        "swap both ends.",
    ]
)
WHICH = st.integers(0, 11)
VERBS = st.sampled_from(["pin", "unpin", "ban", "ban", "restore"])


def _decided(item: dict[str, Any]) -> tuple[Any, ...]:
    """What an item is, whichever bank it is in."""
    names = ("level", "kind", "text", "status", "pinned", "edited")
    return (str(item["problem_id"]), str(item["topic"]), *(item[name] for name in names))


def _says_nothing_twice(items: list[dict[str, Any]]) -> None:
    notes = [i for i in items if i["status"] == "active" and i["level"] != "experience"]
    said = [(i["level"], i["kind"], i["problem_id"], i["topic"], fingerprint(i["text"])) for i in notes]
    assert len(said) == len(set(said)), said


class Curation(RuleBasedStateMachine):
    """People and the loop take turns at one bank."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.open = open_desk(f"sqlite:///{self.folder / 'ledger.db'}", self.folder)
        self.desk: Desk = self.open.__enter__()
        self.step = 0
        self.bans: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.learn("rotate then add 3.", passed=True)

    def teardown(self) -> None:
        self.open.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ the loop

    @rule(says=TEXTS, passed=st.booleans())
    def learn(self, says: str, passed: bool) -> None:
        """A step: what people decided before it is in force, and it changes nothing of theirs."""
        self.step += 1
        world = self.desk.world
        attempts = [(pid, RIGHT, passed) for pid in ("p0", "p1", "p2")] + [("p0", WRONG, not passed)]
        world.record(self.step, attempts)
        world.reflect(self.step, Words(lambda _: f"Strategy: {says}\nLesson: {says}"), ["p0", "p1", "p2"])
        world.abstract(self.step, Words(lambda _: f"Behavior: {says}"))
        banned = Banned(self.bans.values())
        levels = ["experience", "insight", "behavior"]
        rows = read_table(world.retrieve(self.step, demonstrations="none", feedback="never", levels=levels).contexts)
        shown = [item for row in rows for item in json.loads(row["items"])]
        assert [i for i in shown if i["text"] in banned or i["id"] in self.bans] == []
        now = {i["id"]: i for i in self.all()}
        assert {k: (now[k]["text"], now[k]["status"]) for k in self.held} == {
            k: (text, "active") for k, text in self.held.items()
        }

    # ------------------------------------------------------------ people

    @rule(which=WHICH, verb=VERBS)
    def act(self, which: int, verb: str) -> None:
        if item := self.pick(which):
            self.done(self.desk.post(f"items/{item['id']}:{verb}", None, item["version"]))

    @rule(which=WHICH, text=TEXTS)
    def edit(self, which: int, text: str) -> None:
        if item := self.pick(which):
            self.done(self.desk.edit(item, text))

    @rule(which=WHICH, verb=VERBS)
    def act_on_what_has_moved_on(self, which: int, verb: str) -> None:
        if item := self.pick(which):
            late = self.desk.post(f"items/{item['id']}:{verb}", None, item["version"] + 1)
            assert late.status_code == 412
            assert late.json()["current"]["version"] == item["version"]

    @rule(text=TEXTS, pid=st.sampled_from(["p0", "p1", "p9"]), pinned=st.booleans())
    def add(self, text: str, pid: str, pinned: bool) -> None:
        new = {"level": "insight", "kind": "strategy", "problem_id": pid, "text": text, "pinned": pinned}
        self.done(self.desk.post("items", new))

    @rule(text=TEXTS, topic=st.sampled_from(["zor", ""]))
    def add_behavior(self, text: str, topic: str) -> None:
        self.done(self.desk.post("items", {"level": "behavior", "text": text, "topic": topic}))

    @rule(first=WHICH, second=WHICH, text=TEXTS)
    def merge(self, first: int, second: int, text: str) -> None:
        two = [item for which in (first, second) if (item := self.pick(which))]
        refs = [{"id": i["id"], "version": i["version"]} for i in two]
        self.done(self.desk.post("items:merge", {"items": refs, "text": text}))

    @rule(which=WHICH, texts=st.lists(TEXTS, min_size=2, max_size=3))
    def split(self, which: int, texts: list[str]) -> None:
        if item := self.pick(which):
            self.done(self.desk.post(f"items/{item['id']}:split", {"texts": texts}, item["version"]))

    @rule(which=WHICH, version=st.integers(1, 3))
    def revert(self, which: int, version: int) -> None:
        if item := self.pick(which):
            self.done(self.desk.post(f"items/{item['id']}:revert", {"version": version}, item["version"]))

    @rule(action=VERBS, words=st.sampled_from(["rotate", "add", "swap"]))
    def bulk(self, action: str, words: str) -> None:
        found = self.desk.post("items:bulk", {"action": action, "where": {"q": words, "level": "insight"}}).json()
        self.done(self.desk.post("items:bulk", {"action": action, "items": found["items"], "dry_run": False}))

    @rule(back=st.integers(1, 12))
    def rollback(self, back: int) -> None:
        now = self.desk.world.ledger.seq("b")
        body = {"seq": max(0, now - back), "dry_run": False}
        self.done(self.desk.http.post(f"{B}:rollback", json=body, headers=if_match(now)))

    @rule(back=st.integers(0, 12))
    def bring_in_what_was(self, back: int) -> None:
        past = max(1, self.desk.world.ledger.seq("b") - back)
        file = self.desk.http.get(f"{B}/export", params={"seq": past}).content
        self.done(self.desk.http.post(f"{B}:import", content=file))

    @rule(before=st.booleans())
    def another_run_begins_with_it(self, before: bool) -> None:
        """All of it is there, whatever says the same as what; what comes again is known."""
        file = self.desk.http.get(f"{B}/export").content
        bank = "before" if before else f"other{self.desk.world.ledger.seq('b')}"
        new = bank not in self.desk.world.ledger.banks()
        self.done(self.desk.http.post(f"/v1/banks/{bank}:import", content=file))
        there = self.all(bank)
        if new:
            assert sorted(map(_decided, there)) == sorted(map(_decided, self.all()))
        _says_nothing_twice(there)
        again = self.desk.http.post(f"/v1/banks/{bank}:import", content=file)
        assert again.json()["added"] == 0

    @rule(which=WHICH, verb=st.sampled_from(["accept", "reject"]))
    def decide(self, which: int, verb: str) -> None:
        proposals = self.desk.http.get(f"{B}/proposals").json()["proposals"]
        if proposals:
            self.done(self.desk.post(f"proposals/{proposals[which % len(proposals)]['id']}:{verb}", None, "*"))

    # ------------------------------------------------------------ what must hold

    @invariant()
    def no_two_active_notes_say_the_same_of_the_same(self) -> None:
        _says_nothing_twice(self.all())

    @invariant()
    def every_seq_is_accounted_for(self) -> None:
        rows = self.desk.http.get(f"{B}/audit", params={"limit": 1000}).json()["rows"]
        assert {r["seq"] for r in rows} == set(range(1, self.desk.world.ledger.seq("b") + 1))

    def all(self, bank: str = "b") -> list[dict[str, Any]]:
        asked = {"limit": 500, "status": "any"}
        return list(self.desk.http.get(f"/v1/banks/{bank}/items", params=asked).raise_for_status().json()["items"])

    def pick(self, which: int) -> dict[str, Any] | None:
        items = sorted(self.all(), key=lambda i: (i["level"] == "experience", i["id"]))[:12]
        return items[which % len(items)] if items else None

    def done(self, answer: Any) -> None:
        """A person's change was made or refused; what is held and banned now is theirs."""
        assert answer.status_code < 500, answer.text
        if answer.status_code < 300:
            now = self.all()
            gone = {i["id"] for i in now if i["status"] != "banned"}
            lifted = "restore" in answer.request.url.path or "bulk" in answer.request.url.path
            assert lifted or not gone & self.bans.keys(), "a ban is lifted by restore alone"
            self.bans = {i["id"]: i["text"] for i in now if i["status"] == "banned"}
            held = [i for i in now if (i["pinned"] or i["edited"]) and i["status"] == "active"]
            self.held = {i["id"]: i["text"] for i in held}


Curation.TestCase.settings = settings(
    max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCuration = Curation.TestCase
