"""Time: a program's own is bounded whatever it does; the machine's is not counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pmd.services.verifier.sandbox import watch
from pmd.services.verifier.sandbox.client import Zygote
from pmd.services.verifier.sandbox.job import Execution, Job, Limits
from pmd.services.verifier.sandbox.pool import Pool
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
    quick = Execution("exit", 0, b"", b"", b"", True, False, cpu_s=0.004, wall_s=0.09, max_rss_kb=1, own_s=0.09)
    assert quick.spent_s == 0.004
    kept_waiting = Execution("exit", 0, b"", b"", b"", True, False, cpu_s=0.1, wall_s=9.0, max_rss_kb=1, own_s=0.2)
    assert kept_waiting.spent_s == pytest.approx(0.1)
    asleep = Execution("exit", 0, b"", b"", b"", True, False, cpu_s=0.1, wall_s=9.0, max_rss_kb=1, own_s=9.0)
    assert asleep.spent_s == pytest.approx(8.9)


NAP = "import time\ntime.sleep(0.2)\ndef solve(a): return a"
"""Ends by itself, long enough after its start for a test to do something meanwhile."""


@contextlib.contextmanager
def stopped(pid: int, seconds: float) -> Iterator[None]:
    """A process that gets no CPU for a while, as on a machine that does other things."""
    os.kill(pid, signal.SIGSTOP)
    waker = threading.Timer(seconds, os.kill, (pid, signal.SIGCONT))
    waker.start()
    try:
        yield
    finally:
        waker.join()


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of a program's own waiting is too much."""
    monkeypatch.setattr(Limits, "wall_s", property(lambda _: 1.0))


@pytest.mark.usefixtures("short_wait")
def test_a_zygote_that_is_slow_to_fork_takes_no_time_from_the_program() -> None:
    pool = Pool(1, memory_mb=512)
    try:
        with stopped(pool.pids()[0], 2.0):
            execution = pool.run(Job(NAP, "solve", "1", Limits(0.5, 256, 64)))
    finally:
        pool.close()
    assert execution.end == "exit"
    assert execution.wall_s > 1.5, "it was kept waiting"
    assert execution.own_s < 1.0


@pytest.mark.usefixtures("short_wait")
def test_a_zygote_that_is_slow_to_reap_takes_no_time_from_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(1, memory_mb=512)
    spawn = Zygote.spawn
    held = contextlib.ExitStack()

    def spawn_then_stop(zygote: Zygote, *arguments: Any) -> tuple[int, int]:
        child = spawn(zygote, *arguments)
        held.enter_context(stopped(zygote.pid, 2.0))
        return child

    monkeypatch.setattr(Zygote, "spawn", spawn_then_stop)
    try:
        with held:
            execution = pool.run(Job(NAP, "solve", "1", Limits(0.5, 256, 64)))
    finally:
        pool.close()
    assert execution.end == "exit"
    assert execution.wall_s > 1.5, "it was kept waiting"
    assert execution.own_s < 1.0


@pytest.mark.usefixtures("short_wait")
def test_a_service_that_is_held_up_takes_no_time_from_the_program(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = watch._Watch._read

    def read_late(self: watch._Watch, fd: int) -> bool:
        monkeypatch.setattr(watch._Watch, "_read", read)
        time.sleep(2.0)
        return read(self, fd)

    monkeypatch.setattr(watch._Watch, "_read", read_late)
    execution = sandbox.pool.run(Job("print('x' * 300_000)", None, "", Limits(0.5, 256, 1024)))
    assert (execution.end, len(execution.stdout)) == ("exit", 300_001)
    assert execution.wall_s > 1.5, "it was kept waiting"


@pytest.mark.usefixtures("short_wait")
def test_waiting_of_its_own_ends_a_program(sandbox: Sandbox) -> None:
    leave_the_first_thread = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(1e6,)).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[__import__('os').uname().machine], 0)"
    )
    print_slowly = "import time\nwhile True:\n    print(1, flush=True)\n    time.sleep(0.02)"
    for program in ("import time\ntime.sleep(1e6)", leave_the_first_thread, print_slowly):
        execution = sandbox.pool.run(Job(program, None, "", Limits(0.5, 256, 64)))
        assert execution.end == "wall", program


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
