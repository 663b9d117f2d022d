"""Jobs in SQL: one owner each, whoever is killed, on a file and on a server that replicas share."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pmd.services.common import jobstore
from pmd.services.common.client import ServiceClient
from pmd.services.common.jobs import ENDS, Job, JobConflict, JobStatus, JobSubmission
from pmd.services.common.jobstore import Held, JobStore
from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.tokens import Tokens
from pmd.services.rollout.settings import RolloutSettings
from tests.common.processes import TOKEN, Process
from tests.common.sleeper import LEASE_S, Sleep
from tests.reaped import reaped

WORK = JobSubmission(kind="work", request={"text": "zero \u0000 byte, é"})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    return str(request.getfixturevalue("postgres_database")())


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], JobStore]]:
    """Opens the store as another process does."""
    with ExitStack() as stack:

        def another() -> JobStore:
            store = JobStore("test", url)
            stack.callback(store.close)
            return store

        yield another


def test_a_job_is_kept_as_it_was_submitted(opened: Callable[[], JobStore]) -> None:
    here, there = opened(), opened()
    assert [store.submit("a", WORK)[1] for store in (here, there)] == [True, False]
    assert there.submission("a") == ("work", WORK.request)
    with pytest.raises(JobConflict):
        there.submit("a", JobSubmission(kind="work", request={}))
    assert there.get("b") is None


def test_services_share_a_database_and_no_job(url: str) -> None:
    here, other = JobStore("memory", url), JobStore("rollout", url)
    here.submit("a", WORK)
    assert (here.unowned(), other.unowned()) == (["a"], [])
    assert other.submit("a", JobSubmission(kind="other", request={}))[1]
    for store in (here, other):
        store.close()


def test_an_end_is_final_and_is_seen_by_all(opened: Callable[[], JobStore]) -> None:
    here, there = opened(), opened()
    here.submit("a", WORK)
    epoch = here.claim("a")
    assert epoch == 1
    assert here.end("a", epoch, JobStatus.SUCCEEDED, result={"n": 1})
    assert not here.end("a", epoch, JobStatus.FAILED)
    assert (there.claim("a"), there.unowned()) == (None, [])
    job = there.get("a")
    assert job is not None
    assert (job.status, job.result) == (JobStatus.SUCCEEDED, {"n": 1})


def test_a_successor_takes_over_the_file_of_a_process_that_was_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    killed, successor = JobStore("test", url), JobStore("test", url)
    killed.submit("a", WORK)
    before = killed.claim("a")
    assert before is not None
    assert successor.unowned() == ["a"]
    epoch = successor.claim("a")
    assert not killed.end("a", before, JobStatus.FAILED), "it was not dead after all"
    assert epoch is not None
    assert successor.end("a", epoch, JobStatus.SUCCEEDED)


def test_on_a_server_a_job_stays_with_its_owner_until_the_lease_lapses(
    postgres_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_database()
    here, there = JobStore("test", url), JobStore("test", url)
    here.submit("a", WORK)
    epoch = here.claim("a")
    assert epoch is not None
    assert (there.claim("a"), there.unowned()) == (None, [])
    assert here.renew({"a": Held(epoch, "the model is loading", 5.0)}) == {"a": False}
    seen = there.get("a")
    assert seen is not None
    assert (seen.waiting, seen.waiting_since) == ("the model is loading", 5.0)
    there.cancel("a")
    assert here.renew({"a": Held(epoch, None, None)}) == {"a": True}, "its owner learns of it"
    there.submit("b", WORK)
    monkeypatch.setattr(jobstore, "LEASE_S", -1.0)
    gone = here.claim("b")
    monkeypatch.setattr(jobstore, "LEASE_S", 30.0)
    assert gone is not None
    assert there.claim("b") == gone + 1
    assert here.renew({"b": Held(gone, None, None)}) == {}
    assert not here.end("b", gone, JobStatus.FAILED)
    here.release("b", gone)
    assert here.claim("b") is None, "a release by who has lost it changes nothing"
    for store in (here, there):
        store.close()


def test_a_job_that_is_given_back_is_anybodys(postgres_database: Callable[[], str]) -> None:
    url = postgres_database()
    here, there = JobStore("test", url), JobStore("test", url)
    for key in ("a", "b"):
        here.submit(key, WORK)
        epoch = here.claim(key)
        assert epoch is not None
        here.release(key, epoch)
    here.cancel("b")
    assert there.unowned() == ["a"]
    cancelled = there.get("b")
    assert cancelled is not None
    assert cancelled.status is JobStatus.CANCELLED
    assert there.claim("a") is not None
    for store in (here, there):
        store.close()


def test_jobs_of_the_first_release_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE jobs(key TEXT PRIMARY KEY, kind TEXT, body_hash TEXT, request TEXT, status TEXT, result TEXT,"
            " error TEXT, created REAL, seconds REAL);"
            "INSERT INTO jobs VALUES('a','work','h','{\"n\": 1}','succeeded','{\"m\": 2}',NULL,5.0,0.5);"
            "INSERT INTO jobs VALUES('b','work','h','{\"n\": 1}','running',NULL,NULL,6.0,NULL);"
        )
    for _ in range(2):
        store = JobStore("test", f"sqlite:///{path}")
        assert store.get("a") == Job(
            key="a", kind="work", status=JobStatus.SUCCEEDED, result={"m": 2}, created=5.0, seconds=0.5
        )
        assert store.unowned() == ["b"]
        assert store.submission("b") == ("work", {"n": 1})
        store.close()


def test_a_process_that_generates_shares_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_TOKEN", TOKEN)
    monkeypatch.setenv("PMD_JOBS_URL", "postgresql+psycopg://pmd@db/pmd")
    with pytest.raises(SettingsError, match="PMD_JOBS_URL wants PMD_ROLLOUT_REPLICAS"):
        load_settings(RolloutSettings)


class Replicas:
    """Replicas of a service over one server, any of which may be asked."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self.log = folder / "log"
        self.log.mkdir()
        self._folder, self._url, self._stack = folder, url, stack
        self.running: list[Process] = []

    def start(self) -> Process:
        process = Process(self._folder, "tests.common.sleeper", PMD_JOBS_URL=self._url)
        self._stack.enter_context(reaped(process.process.pid))
        self._stack.callback(process.process.wait)
        self._stack.callback(process.process.kill)
        self.running.append(process)
        return process

    def client(self, process: Process) -> ServiceClient:
        return ServiceClient(process.url, Tokens(TOKEN))

    def submit(self, process: Process, key: str, seconds: float) -> Job:
        return self.client(process).submit(key, "sleep", Sleep(seconds=seconds, log=str(self.log)))

    def spans(self, key: str) -> dict[int, list[float]]:
        """When which process worked on a job."""
        found: dict[int, list[float]] = defaultdict(list)
        for path in self.log.glob(f"{key}.*"):
            found[int(path.suffix[1:])] = [float(line) for line in path.read_text().splitlines()]
        return found

    def check_one_owner_at_a_time(self, key: str) -> None:
        lines = sorted((at, pid) for pid, span in self.spans(key).items() for at in span)
        turns = [pid for n, (_, pid) in enumerate(lines) if n == 0 or lines[n - 1][1] != pid]
        assert len(turns) == len(set(turns)), f"{key} was worked on by two at once: {turns}"


@pytest.fixture
def replicas(tmp_path: Path, postgres_database: Callable[[], str]) -> Iterator[Replicas]:
    with ExitStack() as stack:
        made = Replicas(tmp_path, postgres_database(), stack)
        for process in [made.start() for _ in range(3)]:
            process.ready()
        yield made


def test_any_replica_answers_for_any_job(replicas: Replicas) -> None:
    a, b, c = replicas.running
    replicas.submit(a, "long", 30.0)
    assert replicas.submit(b, "long", 30.0).status in {JobStatus.QUEUED, JobStatus.RUNNING}
    replicas.submit(a, "short", 0.5)
    assert replicas.client(b).poll("short", 20).status is JobStatus.SUCCEEDED
    replicas.client(c).cancel("long")
    assert replicas.client(b).poll("long", 20).status is JobStatus.CANCELLED
    for key in ("long", "short"):
        assert len(replicas.spans(key)) == 1


def test_the_successor_of_a_replica_that_stops_goes_on_at_once(replicas: Replicas) -> None:
    for process in replicas.running[1:]:
        process.process.kill()
    first, second = replicas.running[0], replicas.start()
    second.ready()
    replicas.submit(first, "a", 6.0)
    time.sleep(1.0)
    first.process.send_signal(signal.SIGTERM)
    assert replicas.client(second).poll("a", 20).result == {"pid": second.process.pid}
    replicas.check_one_owner_at_a_time("a")


@pytest.mark.chaos
def test_replicas_that_are_killed_or_stand_still_leave_each_job_to_one_other(replicas: Replicas) -> None:
    chance = random.Random(5)
    keys = [f"job{n}" for n in range(24)]
    for key in keys:
        replicas.submit(chance.choice(replicas.running), key, chance.uniform(0.5, 4.0))
    for _ in range(6):
        victim = chance.choice(replicas.running)
        if chance.random() < 0.5:
            victim.process.kill()
            replicas.running.remove(victim)
            replicas.start().ready()
        else:  # long enough to lose its leases, and then it comes back
            os.kill(victim.process.pid, signal.SIGSTOP)
            time.sleep(LEASE_S * 1.5)
            os.kill(victim.process.pid, signal.SIGCONT)
        time.sleep(chance.uniform(0.0, 2.0))
    until = time.monotonic() + 120
    for key in keys:
        while (job := replicas.client(replicas.running[0]).poll(key, 10)).status not in ENDS:
            assert time.monotonic() < until, f"{key} never ends: {job}"
        assert job.status is JobStatus.SUCCEEDED
        assert job.result is not None
        replicas.check_one_owner_at_a_time(key)
        last = max(replicas.spans(key).items(), key=lambda span: span[1][-1])[0]
        assert job.result["pid"] == last, "the end is that of the last owner"
    assert any(len(replicas.spans(key)) > 1 for key in keys), "nothing was taken over"
