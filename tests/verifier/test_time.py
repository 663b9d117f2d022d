"""Time: a program's own is bounded whatever it does; the machine's is not counted."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.verifier.sandbox.job import Execution, Job, Limits
from tests.verifier.conftest import Sandbox


def many_tests(count: int, **limits: float) -> dict[str, Any]:
    tests = [{"input": str(n), "output": str(n)} for n in range(count)]
    return {"kind": "code", "fn_name": "solve", "tests": tests, "limits": limits}


def test_many_tests_share_a_total(sandbox: Sandbox) -> None:
    sleepy = "import time\ndef solve(a):\n    time.sleep(0.4)\n    return a"
    began = time.monotonic()
    verdict = sandbox.judge(sleepy, many_tests(200, cpu_s=1.0, total_s=0.8))
    assert verdict.outcome == "timeout"
    assert time.monotonic() - began < 20, "not the 80 seconds that 200 tests would take"
    assert sandbox.judge(sleepy, many_tests(2, cpu_s=1.0, total_s=30)).outcome == "passed"


def test_cpu_counts_towards_the_total(sandbox: Sandbox) -> None:
    busy = "import time\ndef solve(a):\n    while time.process_time() < 0.2: pass\n    return a"
    assert sandbox.judge(busy, many_tests(20, cpu_s=1.0, total_s=0.5)).outcome == "timeout"


def test_quick_tests_cost_the_total_nothing_but_their_cpu() -> None:
    quick = Execution("exit", 0, b"", b"", b"", cpu_s=0.004, wall_s=0.09, max_rss_kb=1)
    assert quick.spent_s == 0.004
    queued = Execution("exit", 0, b"", b"", b"", cpu_s=0.1, wall_s=9.0, max_rss_kb=1, queued_s=8.8)
    assert queued.spent_s == pytest.approx(0.1)
    asleep = Execution("exit", 0, b"", b"", b"", cpu_s=0.1, wall_s=9.0, max_rss_kb=1)
    assert asleep.spent_s == pytest.approx(8.9)


def test_time_in_the_run_queue_is_measured(sandbox: Sandbox) -> None:
    """Eight threads that compete for the same cores wait for each other, and the kernel tells for how long."""
    job = Job("import time\nwhile time.process_time() < 0.2: pass", None, "", Limits(2.0, 256, 64))
    with ThreadPoolExecutor(4) as threads, hogs(4):
        executions = list(threads.map(sandbox.pool.run, [job] * 4))
    assert max(e.queued_s for e in executions) > 0.05
    assert all(e.queued_s < e.wall_s for e in executions)


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that take all the CPU they get, each in a session (and scheduling group) of its own."""
    spin = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    running = [subprocess.Popen([sys.executable, "-c", spin], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_loaded_machine_turns_no_right_answer_into_a_timeout(sandbox: Sandbox) -> None:
    right = "import time\ndef solve(a):\n    while time.process_time() < 0.3: pass\n    return a"
    with hogs(12), ThreadPoolExecutor(6) as threads:
        time.sleep(1)
        specs = [many_tests(2 + n, cpu_s=0.5) for n in range(6)]
        began = time.monotonic()
        verdicts = list(threads.map(lambda spec: sandbox.judge(right, spec), specs))
        seconds = time.monotonic() - began
    assert [v.outcome for v in verdicts] == ["passed"] * 6
    assert seconds > 2 * sum(v.cpu_ms for v in verdicts) / 1e3 / 2, "the machine was loaded"
