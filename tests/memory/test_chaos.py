"""People and the loop write at once while the service is killed: nothing is lost, nothing happens twice.

Eight writers: six people, who edit shared counters and add rules, and two loops, which record attempts. 20,000
operations on SQLite, fewer on Postgres and with Weaviate as the index, where the same is asked of other programs.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from pmd.services.common.requests import RecordRequest
from pmd.services.memory.index.embed import HashEmbedder
from pmd.services.memory.index.reindex import differences
from pmd.services.memory.ledger import Filter, Item, Ledger, reads
from pmd.services.memory.ledger.tables import AUDIT, ITEMS, PROPOSALS
from tests.memory.weaviate_server import OwnServer, own_server
from tests.memory.world import World, eight_problems

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]

WRITERS = 8
LOOPS = 2
KILLS = 10
COUNTERS = 12
ROLLOUTS = 2
TOKEN = "t" * 16


class Service:
    """The memory service in a process of its own, killed and started again."""

    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.env = os.environ | {
            "PMD_TOKEN": TOKEN,
            "PMD_STATE_DIR": str(folder / "state"),
            "PMD_MEMORY_DATABASE_URL": url,
            **settings,
        }
        self.log = (folder / "service.log").open("ab")
        self.kills = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "pmd.services.memory", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self.env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 900
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=2)
                return
            except httpx.TransportError:
                assert self.process.poll() is None, f"the service ended at once; see {self.log.name}"
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1


@dataclass
class Setting:
    """What is put to the test."""

    service: Service
    url: str
    folder: Path
    operations: int
    weaviate: OwnServer | None = None


@pytest.fixture(params=["sqlite-20000", "postgresql-2000", "weaviate-1000"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    kind, operations = request.param.split("-")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    server, asked = None, {}
    if kind == "postgresql":
        url = str(request.getfixturevalue("postgres_database")())
    if kind == "weaviate":
        server = own_server(tmp_path / "weaviate")
        server.start()
        asked = {
            "PMD_MEMORY_INDEX": "weaviate",
            "PMD_WEAVIATE_URL": server.url,
            "PMD_WEAVIATE_GRPC": server.grpc,
            "PMD_WEAVIATE_API_KEY": server.key,
        }
    running = Service(tmp_path, url, **asked)
    running.start()
    yield Setting(running, url, tmp_path, int(operations), server)
    running.kill()
    running.log.close()
    if server is not None:
        server.close()


class Writer:
    """Somebody who repeats a request until it is answered, as a careful client does."""

    def __init__(self, port: int, number: int) -> None:
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {TOKEN}", "X-PMD-Actor": f"w{number}"},
            timeout=60,
        )
        self.number = number
        self.random = random.Random(number)
        self.done: Counter[str] = Counter()

    def ask(self, method: str, path: str, *, or_busy: bool = False, **kwargs: Any) -> httpx.Response:
        while True:
            try:
                answer = self.http.request(method, path, **kwargs)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            assert answer.status_code < 500 or (or_busy and answer.status_code == 503), answer.text
            return answer

    def count(self, counters: list[str], n: int) -> None:
        """Read a counter, write it plus one; again when somebody was faster."""
        counter = self.random.choice(counters)
        for attempt in range(10_000):
            now = self.ask("GET", f"/v1/banks/b/items/{counter}").json()["item"]
            name, value = now["text"].rsplit(" ", 1)  # "counter3 stands at 17"
            headers = {"If-Match": f'"{now["version"]}"', "Idempotency-Key": f"{self.number}.{n}.{attempt}"}
            body = {"text": f"{name} {int(value) + 1}"}
            answer = self.ask("PATCH", f"/v1/banks/b/items/{counter}", json=body, headers=headers)
            if answer.status_code == 200:
                self.done[counter] += 1
                return
            assert answer.status_code == 412, answer.text
        raise AssertionError("never got through")

    def add(self, n: int) -> None:
        body = {"level": "behavior", "text": f"rule number{self.number}x{n}", "topic": "zor"}
        headers = {"Idempotency-Key": f"add {self.number}.{n}"}
        assert self.ask("POST", "/v1/banks/b/items", json=body, headers=headers).status_code == 201
        self.done["added"] += 1

    def job(self, key: str, request: RecordRequest) -> None:
        body = {"kind": "record", "request": request.model_dump(mode="json")}
        assert self.ask("PUT", f"/v1/jobs/{key}", json=body).status_code in {200, 201}
        while True:
            job = self.ask("GET", f"/v1/jobs/{key}", params={"wait": 20}).json()
            if job["status"] == "succeeded":
                self.done["jobs"] += 1
                return
            assert job["status"] != "failed", job


def kill_now_and_then(setting: Setting, writers: list[Writer], over: threading.Event) -> None:
    """Kills, spread over the work."""
    for n in range(1, KILLS + 1):
        due = setting.operations * n // (KILLS + 1)
        while sum(w.done.total() for w in writers) < due and not over.is_set():
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.1))
        setting.service.kill()
        setting.service.start()


def copy_the_bank(ledger: Ledger, over: threading.Event) -> dict[str, Item]:
    """A copy of the bank, kept by polling `changes`."""
    copy: dict[str, Item] = {}
    after, last = 0, False
    while not last:
        last = over.is_set()
        for item in ledger.changes("b", after, limit=10**6 if last else 200):
            copy[item.id] = item
            after = item.seq
        time.sleep(0.1)
    return copy


def search_now_and_then(port: int, over: threading.Event) -> int:
    """Keeps the service's index busy, which catches up from wherever a kill left it; how often it answered."""
    asker = Writer(port, 98)
    body = {"queries": ["counter0 stands"], "level": "behavior", "mode": "text"}
    found = 0
    while not over.wait(1.0):
        found += asker.ask("POST", "/v1/banks/b/search", json=body, or_busy=True).is_success
    return found


def test_no_lost_update_no_duplicate_and_a_complete_audit_log(setting: Setting) -> None:
    running = setting.service
    world = World(setting.folder, eight_problems(), setting.url)
    world.record(0, [("p0", "Plan: begin.", True)])
    rollouts, verdicts = world.batch(1, [("p0", "Plan: rotate.", True), ("p1", "Plan: reverse.", False)])
    setter = Writer(running.port, 99)
    counters = [
        setter.ask(
            "POST", "/v1/banks/b/items", json={"level": "behavior", "text": f"counter{n} stands at 0", "topic": f"t{n}"}
        ).json()["id"]
        for n in range(COUNTERS)
    ]
    share = setting.operations // WRITERS
    writers = [Writer(running.port, n) for n in range(WRITERS)]
    over = threading.Event()

    def person(writer: Writer) -> None:
        for n in range(share):
            writer.add(n) if n % 4 == 3 else writer.count(counters, n)

    def loop(writer: Writer) -> None:
        for n in range(share):
            step = 1 + writer.number * share + n
            request = RecordRequest(
                bank="b",
                step=step,
                rollouts=rollouts,
                verdicts=verdicts,
                problems=world.problems_ref,
                keep_attempts=4,
            )
            writer.job(f"b.{step}.record", request)

    with ThreadPoolExecutor(WRITERS + 3) as pool:
        beside = [
            pool.submit(kill_now_and_then, setting, writers, over),
            pool.submit(copy_the_bank, world.ledger, over),
            pool.submit(search_now_and_then, running.port, over),
        ]
        try:
            roles: list[Callable[[Writer], None]] = [loop] * LOOPS + [person] * (WRITERS - LOOPS)
            for task in [pool.submit(role, writer) for role, writer in zip(roles, writers, strict=True)]:
                task.result()
        finally:
            over.set()
        _, copy, found = (task.result() for task in beside)

    done: Counter[str] = sum((w.done for w in writers), Counter())
    print(f"{sum(done.values())} operations, {running.kills} kills, {dict(done)}")
    assert sum(done.values()) == share * WRITERS
    assert running.kills == KILLS
    assert found
    check_ledger(world.ledger, done, counters, copy)
    check_index(setter, world.ledger, setting.weaviate)
    world.ledger.close()


def check_index(asker: Writer, ledger: Ledger, server: OwnServer | None) -> None:
    """The index of the service finds every active rule by its words, and nothing that it should not."""
    rules = ledger.active("b", "behavior")
    for start in range(0, len(rules), 200):
        part = rules[start : start + 200]
        body = {"queries": [i.text for i in part], "level": "behavior", "mode": "text", "limit": 20}
        while not (answer := asker.ask("POST", "/v1/banks/b/search", json=body, or_busy=True)).is_success:
            continue  # it catches up in pieces
        for item, hits in zip(part, answer.json()["results"], strict=True):
            assert (item.id, item.version) in {(h["id"], h["version"]) for h in hits}, item
    if server is not None:
        assert answer.json()["index"] == "weaviate"
        assert differences(ledger, server.index(HashEmbedder().id), "b", "behavior") == 0


def check_ledger(ledger: Ledger, done: Counter[str], counters: list[str], copy: dict[str, Item]) -> None:
    with ledger.read() as db:
        everything, following = reads.page(db, "b", Filter(), limit=10**6)
        assert following is None
        assert copy == {i.id: i for i in everything}, "who polls by seq has what is there"
        for counter in counters:
            versions = reads.history(db, "b", counter)
            assert [int(v.text.rsplit(" ", 1)[1]) for v, _ in versions] == list(range(done[counter] + 1))
            assert [v.version for v, _ in versions] == list(range(1, done[counter] + 2))
        attempts = sa.select(sa.func.count()).select_from(ITEMS).where(ITEMS.c.level == "experience")
        assert db.scalar(attempts) == done["jobs"] * ROLLOUTS + 1
        texts = [i.text for i in everything if i.text.startswith("rule ")]
        assert len(texts) == len(set(texts)) == done["added"]
        assert len(reads.active(db, "b", "experience", ["p0"])) <= 4
        audit = db.execute(sa.select(AUDIT).order_by(AUDIT.c.seq, AUDIT.c.n)).all()
        assert [row.seq for row in audit] == list(range(1, reads.seq(db, "b") + 1)), "every seq, each once"
        actions = Counter(row.action for row in audit)
        assert actions["edit"] == sum(done[c] for c in counters)
        assert actions["add"] == done["added"] + COUNTERS
        assert actions["job"] == done["jobs"] + 1
        assert db.execute(sa.select(PROPOSALS)).first() is None
