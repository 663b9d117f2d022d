"""The job protocol: idempotent, durable, cancellable, and honest about failures."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pmd.services.common.app import NotReady, create_service
from pmd.services.common.jobs import Cancelled, HandedOver, JobContext, JobKind, JobSubmission, Retryable
from pmd.services.common.jobstore import JobStore
from pmd.services.common.runner import JobRunner
from pmd.services.common.settings import ServiceSettings
from pmd.services.common.sql import Busy
from pmd.services.common.strict import Strict
from pmd.services.common.waiting import Away

TOKEN = "test-token-0123456789"


class Work(Strict):
    seconds: float = 0.0
    fail: str | None = None


class Done(Strict):
    count: int


class Counter:
    """A handler that counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.lacking: list[Exception] = []
        """What it meets first, one a run."""
        self.started = threading.Event()

    def __call__(self, work: Work, job: JobContext) -> Done:
        self.runs += 1
        self.started.set()
        if self.lacking:
            raise self.lacking.pop(0)
        deadline = time.monotonic() + work.seconds
        while time.monotonic() < deadline:
            job.check()
            time.sleep(0.005)
        if work.fail == "retryable":
            raise Retryable("the database went away")
        if work.fail == "bytes":
            raise FileNotFoundError("/data/\udcff")
        if work.fail:
            raise ValueError(work.fail)
        return Done(count=self.runs)


def store(folder: Path) -> JobStore:
    return JobStore("test", f"sqlite:///{folder / 'jobs.db'}")


def service(folder: Path, handler: Counter) -> FastAPI:
    runner = JobRunner("test", store(folder), {"work": JobKind(Work, handler)})

    @asynccontextmanager
    async def lifespan(_: FastAPI):  # type: ignore[no-untyped-def]
        runner.recover()
        yield
        runner.close()

    app = create_service("test", ServiceSettings(token=TOKEN, state_dir=folder), ready=dict, lifespan=lifespan)
    app.include_router(runner.router())
    return app


def waits(http: TestClient, key: str) -> dict[str, Any]:
    """The job of `key`, once it waits."""
    while not (job := http.get(f"/v1/jobs/{key}").json())["waiting"]:
        time.sleep(0.005)
    return dict(job)


def numbered(code: int) -> Exception:
    """An error of SQLite as it raises it."""
    error = sqlite3.OperationalError("said by SQLite")
    error.sqlite_errorcode = code
    return error


AWAY: list[Exception] = [
    Away("the model is loading"),
    NotReady("the engine is starting"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EROFS, "Read-only file system"),
    ConnectionRefusedError("storage"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    *(
        numbered(code)
        for code in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR_FSYNC,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_BUSY,
        )
    ),
]


class FullDisk:
    """A job store whose next uses of one method fail as on a full disk; they are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, failures: int) -> None:
        monkeypatch.setattr("pmd.services.common.runner.STORE_RETRY_S", 0.02)
        self.failures = failures
        self.failed = threading.Event()
        plain: Callable[..., object] = getattr(JobStore, method)

        def use(kept: JobStore, *args: object, **kwargs: object) -> object:
            if self.failures:
                self.failures -= 1
                self.failed.set()
                raise Busy("database or disk is full")
            return plain(kept, *args, **kwargs)

        monkeypatch.setattr(JobStore, method, use)


def client(app: FastAPI) -> TestClient:
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False)


@pytest.fixture
def handler() -> Counter:
    return Counter()


@pytest.fixture
def http(tmp_path: Path, handler: Counter) -> Iterator[TestClient]:
    with client(service(tmp_path, handler)) as c:
        yield c


def put(http: TestClient, key: str, **request: object) -> dict[str, object]:
    return dict(http.put(f"/v1/jobs/{key}", json={"kind": "work", "request": request}).json())


def test_the_same_key_and_body_is_one_job(http: TestClient, handler: Counter) -> None:
    body = {"kind": "work", "request": {"seconds": 0.05}}
    statuses = [http.put("/v1/jobs/a", json=body).status_code for _ in range(3)]
    job = http.get("/v1/jobs/a", params={"wait": 5}).json()
    assert statuses == [201, 200, 200]
    assert job["status"] == "succeeded"
    assert job["result"] == {"count": 1}
    assert handler.runs == 1


def test_a_deeply_nested_request_is_kept_as_it_came(tmp_path: Path) -> None:
    kept = store(tmp_path)
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    for created in (True, False):
        assert kept.submit("deep", JobSubmission(kind="work", request={"fail": deep}))[1] is created
    assert kept.submission("deep") == ("work", {"fail": deep})


def test_another_body_under_the_same_key_is_409(http: TestClient) -> None:
    put(http, "a")
    answer = http.put("/v1/jobs/a", json={"kind": "work", "request": {"seconds": 1}})
    assert answer.status_code == 409
    assert "new key" in answer.json()["title"]


def test_waiting_returns_as_soon_as_the_job_ends(http: TestClient) -> None:
    put(http, "a", seconds=0.2)
    began = time.monotonic()
    assert http.get("/v1/jobs/a", params={"wait": 20}).json()["status"] == "succeeded"
    assert time.monotonic() - began < 5


def test_a_running_job_is_cancelled(http: TestClient, handler: Counter) -> None:
    put(http, "a", seconds=30)
    assert handler.started.wait(5)
    http.delete("/v1/jobs/a")
    assert http.get("/v1/jobs/a", params={"wait": 5}).json()["status"] == "cancelled"


def test_a_queued_job_is_cancelled_at_once_and_never_runs(http: TestClient, handler: Counter) -> None:
    put(http, "a", seconds=30)
    put(http, "b")
    assert http.delete("/v1/jobs/b").json()["status"] == "cancelled"
    http.delete("/v1/jobs/a")
    http.get("/v1/jobs/a", params={"wait": 5})
    assert handler.runs == 1


def test_failures_say_why_and_whether_to_retry(http: TestClient) -> None:
    put(http, "a", fail="retryable")
    put(http, "b", fail="bad input")
    errors = [http.get(f"/v1/jobs/{k}", params={"wait": 5}).json()["error"] for k in "ab"]
    assert errors == [
        {"message": "Retryable: the database went away", "retryable": True},
        {"message": "ValueError: bad input", "retryable": False},
    ]


@pytest.mark.parametrize("lacking", AWAY, ids=str)
def test_law_12_what_is_away_is_waited_for_in_sight_and_is_no_failure(
    lacking: Exception, http: TestClient, handler: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.runner.delay", lambda *_: 0.02)
    handler.lacking = [lacking] * 50
    put(http, "a")
    job = waits(http, "a")
    assert (job["status"], job["error"]) == ("running", None)
    assert str(lacking).split("] ")[-1] in job["waiting"]
    assert job["waiting_since"] == pytest.approx(time.time(), abs=30)
    job = http.get("/v1/jobs/a", params={"wait": 20}).json()
    assert (job["status"], job["result"], job["waiting"]) == ("succeeded", {"count": 51}, None)


def test_a_full_disk_is_named(http: TestClient, handler: Counter, tmp_path: Path) -> None:
    handler.lacking = [OSError(errno.ENOSPC, "No space left on device")] * 10
    put(http, "a")
    assert f"({tmp_path.absolute()}/jobs.db is full)" in waits(http, "a")["waiting"]
    http.delete("/v1/jobs/a")


def test_a_job_that_waits_holds_up_no_other_and_is_cancelled_at_once(
    http: TestClient, handler: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.runner.delay", lambda *_: 60.0)
    handler.lacking = [Away("the model is loading")]
    put(http, "a")
    waits(http, "a")
    put(http, "b")
    assert http.get("/v1/jobs/b", params={"wait": 20}).json()["status"] == "succeeded", "there is one worker"
    assert http.delete("/v1/jobs/a").json()["status"] == "cancelled"
    assert http.get("/v1/jobs/a").json()["waiting"] is None


def test_a_job_that_waits_goes_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pmd.services.common.runner.delay", lambda *_: 60.0)
        first = Counter()
        first.lacking = [Away("the model is loading")]
        with client(service(tmp_path, first)) as http:
            put(http, "a")
            waits(http, "a")
    with client(service(tmp_path, Counter())) as http:
        assert http.get("/v1/jobs/a", params={"wait": 20}).json()["status"] == "succeeded"


def test_what_a_job_has_made_before_it_waits_is_not_made_again() -> None:
    made, context = [], JobContext("a", threading.Event())
    assert [context.once("rows", lambda: made.append(1) or len(made)) for _ in range(3)] == [1, 1, 1]


def test_a_job_without_an_end_runs_again_after_a_restart(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.submit("a", JobSubmission(kind="work", request={}))
    kept.claim("a")
    with client(service(tmp_path, Counter())) as http:
        assert http.get("/v1/jobs/a", params={"wait": 5}).json()["status"] == "succeeded"


def test_a_job_cut_short_by_a_shutdown_is_not_an_end(tmp_path: Path) -> None:
    first = Counter()
    with client(service(tmp_path, first)) as http:
        put(http, "a", seconds=30)
        assert first.started.wait(5)
    time.sleep(0.1)
    job = store(tmp_path).get("a")
    assert job is not None
    assert job.status == "running"


@pytest.mark.parametrize("method", ["claim", "submission", "end"])
def test_a_full_disk_delays_a_jobs_end_and_loses_nothing(
    method: str, http: TestClient, handler: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, method, 3)
    put(http, "a")
    job = http.get("/v1/jobs/a", params={"wait": 5}).json()
    assert (job["status"], job["result"]) == ("succeeded", {"count": 1})
    assert handler.runs == 1


def test_a_service_with_a_full_disk_stops_and_does_the_job_at_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch, "end", 10**6)
    with client(service(tmp_path, Counter())) as http:
        put(http, "a")
        assert disk.failed.wait(5)
    disk.failures = 0
    with client(service(tmp_path, Counter())) as http:
        assert http.get("/v1/jobs/a", params={"wait": 5}).json()["status"] == "succeeded"


def test_a_put_that_failed_after_it_wrote_the_job_can_be_repeated(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, "get", 1)
    body = {"kind": "work", "request": {}}
    assert [http.put("/v1/jobs/a", json=body).status_code for _ in range(2)] == [503, 200]
    assert http.get("/v1/jobs/a", params={"wait": 5}).json()["status"] == "succeeded"


def test_a_failure_that_is_no_unicode_is_an_end(http: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # the report of a test can't carry what is no Unicode to xdist's terminal
    put(http, "a", fail="bytes")
    error = http.get("/v1/jobs/a", params={"wait": 5}).json()["error"]
    assert error == {"message": r"FileNotFoundError: /data/\udcff", "retryable": True}


def test_a_job_of_a_kind_that_is_gone_is_an_end(tmp_path: Path) -> None:
    store(tmp_path).submit("a", JobSubmission(kind="play", request={}))
    with client(service(tmp_path, Counter())) as http:
        assert http.get("/v1/jobs/a", params={"wait": 5}).json()["error"]["message"] == "KeyError: 'play'"


def test_nobody_waits_for_a_job_that_was_cancelled_while_it_was_queued(http: TestClient) -> None:
    put(http, "a", seconds=30)
    put(http, "b")
    http.delete("/v1/jobs/b")
    began = time.monotonic()
    assert http.get("/v1/jobs/b", params={"wait": 20}).json()["status"] == "cancelled"
    assert time.monotonic() - began < 5
    http.delete("/v1/jobs/a")


@pytest.mark.parametrize(
    ("body", "field", "hint"),
    [
        ({"kind": "wrok", "request": {}}, "kind", "'work'"),
        ({"kind": "work", "request": {"secnds": 1}}, "request.secnds", "'seconds'"),
        ({"kind": "work", "request": {"seconds": "long"}}, "request.seconds", "number"),
        ({"kind": "work", "request": {}, "prio": 1}, "body.prio", "unknown key"),
    ],
)
def test_law_11_bad_input_names_the_field_and_the_nearest_valid_one(
    http: TestClient, body: dict[str, object], field: str, hint: str
) -> None:
    answer = http.put("/v1/jobs/a", json=body)
    (error,) = answer.json()["errors"]
    assert answer.status_code == 422
    assert error["field"] == field
    assert hint in error["message"]


def test_law_11_an_unknown_query_key_is_refused_with_the_nearest(http: TestClient) -> None:
    answer = http.get("/v1/jobs/a", params={"wiat": 5})
    assert (answer.status_code, answer.json()["errors"]) == (
        422,
        [{"field": "query.wiat", "message": "unknown key 'wiat'; did you mean 'wait'?"}],
    )


def test_unknown_jobs_and_wrong_tokens(http: TestClient) -> None:
    assert http.get("/v1/jobs/none").status_code == 404
    assert http.delete("/v1/jobs/none").status_code == 404
    assert http.get("/v1/jobs/none", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert http.get("/healthz", headers={"Authorization": ""}).status_code == 200


@pytest.mark.parametrize("lacking", [a for a in AWAY if not isinstance(a, RuntimeError)], ids=str)
def test_a_request_that_storage_fails_is_503_with_the_reason_and_says_when_to_ask_again(
    lacking: Exception, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise lacking

    monkeypatch.setattr(JobStore, "submit", fails)
    refused = http.put("/v1/jobs/a", json={"kind": "work", "request": {}})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert str(lacking) in refused.json()["title"]


def test_a_check_tells_what_goes_on_elsewhere_from_what_nobody_wants() -> None:
    wanted = JobContext("a", threading.Event())
    wanted.check()
    wanted.cancelled.set()
    with pytest.raises(Cancelled) as nobody:
        wanted.check()
    assert not isinstance(nobody.value, HandedOver)
    wanted.lease_until = 0.0
    with pytest.raises(HandedOver):
        wanted.check()
    with pytest.raises(HandedOver):
        JobContext("a", threading.Event(), stopping=True).check()


def test_a_service_that_stops_hands_its_jobs_over(tmp_path: Path) -> None:
    seen: list[type[BaseException]] = []
    started = threading.Event()

    def work(_: Work, job: JobContext) -> Done:
        started.set()
        try:
            while True:
                job.check()
                time.sleep(0.005)
        except Cancelled as told:
            seen.append(type(told))
            raise

    runner = JobRunner("test", store(tmp_path), {"work": JobKind(Work, work)})
    runner.submit("a", JobSubmission(kind="work", request={}))
    assert started.wait(5)
    runner.close()
    runner._pool.shutdown(wait=True)
    assert seen == [HandedOver]
    left = store(tmp_path).get("a")
    assert left is not None
    assert left.status == "running", "for the next start"


def test_a_job_that_was_handed_over_has_no_end_though_its_lease_holds_again(tmp_path: Path) -> None:
    """The renewal came between the check and what is recorded of it."""
    ended = threading.Event()

    def work(_: Work, job: JobContext) -> Done:
        job.lease_until = 0.0
        try:
            job.check()
        finally:
            job.lease_until = float("inf")
            ended.set()
        raise AssertionError

    runner = JobRunner("test", store(tmp_path), {"work": JobKind(Work, work)})
    runner.submit("a", JobSubmission(kind="work", request={}))
    assert ended.wait(5)
    runner._pool.shutdown(wait=True)
    left = store(tmp_path).get("a")
    assert left is not None
    assert left.status == "running"
