"""What the service does when too much is asked, when it stops, and when its client goes away."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pmd.services.common.artifacts import write_problems, write_table
from pmd.services.common.columns import ROLLOUTS
from pmd.services.common.requests import VerifyRequest
from pmd.services.common.wire import Message, Problem
from pmd.services.verifier.sandbox.job import Job, Limits
from pmd.services.verifier.sandbox.pool import Pool
from tests.verifier.conftest import RIGHT, SOLVE_SPEC, fenced
from tests.verifier.test_service import TOKEN, ready, rollout, wait_until

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class Service:
    """The verifier as its own process, as people run it."""

    def __init__(self, state: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {"PMD_TOKEN": TOKEN, "PMD_STATE_DIR": str(state), "PATH": os.environ["PATH"], **settings}
        self.base = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pmd.services.verifier", "--port", str(self.port)],
            env={"PMD_SANDBOX_WORKERS": "1", **environment},
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: ready(self.base), 60)

    def verify(self, program: str, cpu_s: float = 2.0, padding: int = 0) -> httpx.Response:
        spec = {**SOLVE_SPEC, "tests": SOLVE_SPEC["tests"][:1], "limits": {"cpu_s": cpu_s}}
        item = {"verifier": spec, "completion": "x" * padding + fenced(program)}
        return httpx.post(f"{self.base}/v1/verify", json={"items": [item]}, headers=HEADERS, timeout=60)

    def metric(self, name: str) -> float:
        found = re.findall(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{self.base}/metrics").text, re.MULTILINE)
        return float(found[0]) if found else 0.0

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)


@contextlib.contextmanager
def running(state: Path, **settings: str) -> Iterator[Service]:
    service = Service(state, **settings)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()


@contextlib.contextmanager
def meanwhile(service: Service, *arguments: Any) -> Iterator[Future[httpx.Response]]:
    """A request that is under way."""
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(service.verify, *arguments)
        wait_until(lambda: service.metric("pmd_sandbox_running") == 1, 20)
        yield answer


def sleeping(seconds: float) -> str:
    return f"import time\ntime.sleep({seconds})\n{RIGHT}"


def test_too_much_at_once_is_429_and_nothing_that_was_let_in_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, PMD_MAX_REQUEST_MB="1", PMD_MAX_PENDING_MB="1") as service:
        with meanwhile(service, sleeping(1.5), 2.0, 700_000) as first:
            refused = service.verify(RIGHT, 2.0, 700_000)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert "send this one again" in refused.json()["title"]
            assert first.result().json()["verdicts"][0]["outcome"] == "passed"
        assert service.metric('pmd_verify_refused_total{status="429"}') == 1
        assert service.verify(RIGHT, 2.0, 700_000).json()["verdicts"][0]["outcome"] == "passed"
        assert service.metric("pmd_verify_pending_bytes") == 0


def test_a_service_that_stops_answers_what_it_can_and_refuses_the_rest(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        with meanwhile(service, sleeping(1.5)) as answer:
            service.process.send_signal(signal.SIGTERM)
            assert answer.result().json()["verdicts"][0]["outcome"] == "passed"
        service.process.wait(30)
    with running(tmp_path) as service:
        with meanwhile(service, "while True: pass", 60.0) as answer:
            began = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert answer.result().status_code == 503
            assert "stopping" in answer.result().json()["title"]
        service.process.wait(30)
        assert time.monotonic() - began < 25


def test_work_whose_client_went_away_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        tests = [{"input": str(n), "output": str(n)} for n in range(200)]
        spec = {"kind": "code", "fn_name": "solve", "tests": tests}
        slow = fenced("import time\ndef solve(a):\n    time.sleep(0.3)\n    return a")
        body = {"items": [{"verifier": spec, "completion": slow}]}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.base}/v1/verify", json=body, headers=HEADERS, timeout=1)
        wait_until(lambda: service.metric("pmd_verify_pending") == 0, 20)
        assert service.verify(RIGHT).json()["verdicts"][0]["outcome"] == "passed"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_was_interrupted_runs_again(how: signal.Signals, tmp_path: Path) -> None:
    problem = Problem(id="p", messages=[Message(role="user", content="q")], verifier=SOLVE_SPEC)
    rows = [rollout("p", "train", n, fenced(f"import time\ntime.sleep(0.1 + {n} / 1000)\n{RIGHT}")) for n in range(12)]
    request = VerifyRequest(
        rollouts=write_table(f"file://{tmp_path}/rollouts.parquet", rows, ROLLOUTS),
        problems=write_problems(f"file://{tmp_path}/problems.parquet", [problem]),
        out=f"file://{tmp_path}/verdicts.parquet",
    )
    body = {"kind": "verify", "request": request.model_dump(mode="json")}
    path = "/v1/jobs/run.s0001.verify.0"
    with running(tmp_path) as service:
        httpx.put(service.base + path, json=body, headers=HEADERS).raise_for_status()
        wait_until(lambda: service.metric("pmd_sandbox_running") == 1, 20)
        service.stop(how)
    assert not (tmp_path / "verdicts.parquet").exists(), "it was interrupted"
    with running(tmp_path) as service:
        job = httpx.get(service.base + path, params={"wait": 60}, headers=HEADERS, timeout=90).json()
    assert job["status"] == "succeeded", job
    assert job["result"]["outcomes"] == {"passed": 12}


def test_metrics_tell_what_happened(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        for program in (RIGHT, "def solve(a): return 0", "import ctypes; ctypes.string_at(0)", f"# again\n{RIGHT}"):
            service.verify(program)
        zygote = [int(p) for p in subprocess.check_output(["pgrep", "-P", str(service.process.pid)]).split()]
        with meanwhile(service, sleeping(1.0)) as answer:
            for pid in zygote:
                os.kill(pid, signal.SIGKILL)
            assert answer.result().json()["verdicts"][0]["outcome"] == "passed", "tried again"
        assert service.metric('pmd_verdicts_total{kind="code",outcome="passed"}') == 3
        assert service.metric('pmd_verdicts_total{kind="code",outcome="failed"}') == 2
        assert service.metric('pmd_sandbox_zygote_restarts_total{reason="crash"}') == 1
        assert service.metric('pmd_sandbox_run_seconds_count{end="exit"}') >= 4, "the self-test is one of them"
        assert service.metric("pmd_sandbox_cpu_seconds_total") > 0
        assert service.metric("pmd_sandbox_memory_reserved_bytes") == 0
        assert service.metric("pmd_verify_pending") == service.metric("pmd_sandbox_running") == 0


def test_memory_is_given_in_the_order_of_asking() -> None:
    """A program that wants all memory is not overtaken for ever by small ones."""

    pool = Pool(2, memory_mb=512)
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            pool.run(Job("import time; time.sleep(0.05)", None, "", Limits(1, 256, 64)))

    small = [threading.Thread(target=keep_busy) for _ in range(4)]
    for thread in small:
        thread.start()
    try:
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(pool.run, Job("pass", None, "", Limits(1, 512, 64))).result(20).end == "exit"
    finally:
        stop.set()
        for thread in small:
            thread.join()
        pool.close()
