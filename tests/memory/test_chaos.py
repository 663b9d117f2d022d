"""People and the loop write at once while the service is killed: nothing is lost, nothing happens twice.

CHAOS_OPERATIONS=20000 pytest -m chaos tests/memory/test_chaos.py
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
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from services.common.requests import RecordRequest
from services.memory.ledger import Filter, Item, Ledger, reads
from services.memory.ledger.tables import AUDIT, ITEMS, PROPOSALS
from tests.memory.conftest import World, eight_problems

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]

OPERATIONS = int(os.environ.get("CHAOS_OPERATIONS", "240"))
WRITERS = 8
COUNTERS = 4
ROLLOUTS = 2
TOKEN = "t" * 16


class Service:
    """The memory service in a process of its own, killed and started again."""

    def __init__(self, folder: Path, url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.env = os.environ | {
            "PMD_TOKEN": TOKEN,
            "PMD_STATE_DIR": str(folder / "state"),
            "PMD_MEMORY_DATABASE_URL": url,
        }
        self.log = (folder / "service.log").open("ab")
        self.kills = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "services.memory", "--port", str(self.port)]
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


@pytest.fixture
def service(url: str, tmp_path: Path) -> Iterator[tuple[Service, str, Path]]:
    running = Service(tmp_path, url)
    running.start()
    yield running, url, tmp_path
    running.kill()
    running.log.close()


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

    def ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        while True:
            try:
                answer = self.http.request(method, path, **kwargs)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            assert answer.status_code < 500, answer.text
            return answer

    def count(self, counters: list[str], n: int) -> None:
        """Read a counter, write it plus one; again when somebody was faster."""
        counter = self.random.choice(counters)
        for attempt in range(10_000):
            now = self.ask("GET", f"/v1/banks/b/items/{counter}").json()["item"]
            name, value = now["text"].rsplit(" ", 1)
            headers = {"If-Match": f'"{now["version"]}"', "Idempotency-Key": f"{self.number}.{n}.{attempt}"}
            body = {"text": f"{name} {int(value) + 1}"}
            answer = self.ask("PATCH", f"/v1/banks/b/items/{counter}", json=body, headers=headers)
            if answer.status_code == 200:
                self.done[counter] += 1
                return
            assert answer.status_code == 412, answer.text
        raise AssertionError("never got through")

    def add(self, n: int) -> None:
        body = {"level": "behavior", "text": f"rule {self.number} {n}", "topic": "zor"}
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


def test_no_lost_update_no_duplicate_and_a_complete_audit_log(service: tuple[Service, str, Path]) -> None:
    running, url, folder = service
    world = World(folder, eight_problems(), url)
    world.record(0, [("p0", "Plan: begin.", True)])
    rollouts, verdicts = world.batch(1, [("p0", "Plan: rotate.", True), ("p1", "Plan: reverse.", False)])
    setter = Writer(running.port, 99)
    counters = [
        setter.ask(
            "POST", "/v1/banks/b/items", json={"level": "behavior", "text": f"counter {n} 0", "topic": f"t{n}"}
        ).json()["id"]
        for n in range(COUNTERS)
    ]
    share = OPERATIONS // WRITERS
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

    def killer() -> None:
        while True:  # at least once, however fast the writers are
            ended = over.wait(random.uniform(0.3, 2.0))
            running.kill()
            running.start()
            if ended:
                return

    def reader() -> dict[str, Item]:
        """A copy of the bank, kept by polling `changes`."""
        copy: dict[str, Item] = {}
        after, last = 0, False
        while not last:
            last = over.is_set()
            for item in world.ledger.changes("b", after, limit=50):
                copy[item.id] = item
                after = item.seq
            time.sleep(0.02)
        return copy

    writers = [Writer(running.port, n) for n in range(WRITERS)]
    roles: list[Callable[[Writer], None]] = [person, loop]
    with ThreadPoolExecutor(WRITERS + 2) as pool:
        killing, copying = pool.submit(killer), pool.submit(reader)
        try:
            tasks = [pool.submit(roles[w.number % 2], w) for w in writers]
            for task in tasks:
                task.result()
        finally:
            over.set()
        killing.result()
        copy = copying.result()

    done: Counter[str] = sum((w.done for w in writers), Counter())
    print(f"{sum(done.values())} operations, {running.kills} kills, {dict(done)}")
    assert sum(done.values()) == share * WRITERS
    assert running.kills > 0
    check_ledger(world.ledger, done, counters, copy)
    world.ledger.close()


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
