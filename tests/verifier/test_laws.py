"""Law 4: expected outputs never enter the process that runs untrusted code. Law 5: our trouble is no zero reward."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.services.verifier.sandbox import client, watch
from pmd.services.verifier.sandbox.job import Job, Limits
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.sandbox.zygote import SPAWN
from tests.verifier.conftest import RIGHT, Sandbox

GOLD = "gold-5f0e9c2b7d31a846"
GOLD_SPEC = {"kind": "code", "fn_name": "solve", "tests": [{"input": "[1]", "output": f'"{GOLD}"'}]}


@pytest.mark.parametrize(
    ("program", "spec"),
    [
        ("def solve(a): return 'a wrong guess'", GOLD_SPEC),
        ("print('a wrong guess')", {"kind": "code", "tests": [{"input": "1", "output": GOLD}]}),
    ],
    ids=["function", "stdin"],
)
def test_law_4_nothing_but_limits_goes_to_the_zygote_and_no_expected_output_to_the_child(
    program: str, spec: dict[str, Any], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_zygote: list[bytes] = []
    to_child: list[bytes] = []
    send_fds, write = socket.send_fds, os.write

    def spy_send(sock: socket.socket, buffers: list[bytes], fds: list[int]) -> int:
        to_zygote.extend(buffers)
        return send_fds(sock, buffers, fds)

    def spy_write(fd: int, data: bytes) -> int:
        to_child.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(client.socket, "send_fds", spy_send)
    monkeypatch.setattr(os, "write", spy_write)
    sandbox.judge(program, spec)
    assert [len(message) for message in to_zygote] == [SPAWN.size]
    assert b"a wrong guess" in b"".join(to_child), "the spy sees what the child gets"
    assert GOLD.encode() not in b"".join(to_zygote + to_child)


def test_law_4_the_memory_of_zygotes_holds_no_expected_output_and_no_program(sandbox: Sandbox) -> None:
    program = "def solve(a): return 'mark-' + 'c41d8f'  # mark-c41d8f"
    for _ in range(4):
        sandbox.judge(program, GOLD_SPEC)
    for pid in sandbox.pool.pids():
        memory = memory_of(pid)
        assert b"pmd.services.verifier.sandbox" in memory, "the scan reads the zygote's heap"
        assert GOLD.encode() not in memory
        assert b"mark-c41d8f" not in memory


def memory_of(pid: int) -> bytes:
    """All writable private memory of a process."""
    try:
        with Path(f"/proc/{pid}/mem").open("rb", 0) as mem:
            parts = []
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                span, rights = line.split()[:2]
                if rights.startswith("rw"):
                    start, end = (int(x, 16) for x in span.split("-"))
                    mem.seek(start)
                    parts.append(mem.read(end - start))
            return b"".join(parts)
    except PermissionError:
        pytest.skip("reading the memory of the own child is forbidden here; root, or ptrace_scope 0, runs it")


def during(seconds: float, sandbox: Sandbox, program: str, act: Callable[[], Any]) -> Any:
    """The verdict of `program` when `act` happens after `seconds`."""
    timer = threading.Timer(seconds, act)
    timer.start()
    try:
        return sandbox.judge(program)
    finally:
        timer.join()


SLOW = "import time\ntime.sleep(0.15)\n" + RIGHT


def kill_zygotes(sandbox: Sandbox) -> None:
    for pid in sandbox.pool.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_law_5_a_zygote_killed_mid_job_is_replaced_and_the_verdict_is_right(sandbox: Sandbox) -> None:
    assert during(0.05, sandbox, SLOW, lambda: kill_zygotes(sandbox)).outcome == "passed"
    assert sandbox.judge(RIGHT).outcome == "passed"


def test_law_5_zygotes_that_keep_dying_are_an_infra_error_not_a_failure(sandbox: Sandbox) -> None:
    done = threading.Event()

    def keep_killing() -> None:
        while not done.wait(0.03):
            kill_zygotes(sandbox)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        verdict = sandbox.judge(SLOW)
    finally:
        done.set()
        killer.join()
    assert (verdict.outcome, verdict.reward, verdict.feedback) == ("infra_error", 0.0, "")
    assert sandbox.judge(RIGHT).outcome == "passed"


def test_law_5_a_child_killed_by_somebody_else_is_an_infra_error(sandbox: Sandbox) -> None:
    done = threading.Event()

    def keep_killing() -> None:
        while not done.wait(0.03):
            for zygote in sandbox.pool.pids():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    for child in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        assert sandbox.judge(SLOW).outcome == "infra_error"
    finally:
        done.set()
        killer.join()


def test_law_5_a_fork_that_fails_is_an_infra_error(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    real = client.Zygote.spawn

    def refuse(self: client.Zygote, descriptors: list[int], memory: int, cpu_s: int) -> tuple[int, int]:
        raise client.SandboxError("no child could be started: Resource temporarily unavailable")

    monkeypatch.setattr(client.Zygote, "spawn", refuse)
    assert sandbox.judge(RIGHT).outcome == "infra_error"
    monkeypatch.setattr(client.Zygote, "spawn", real)
    assert sandbox.judge(RIGHT).outcome == "passed"


def test_law_5_a_starved_program_is_repeated_then_reported_as_our_trouble(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits, "wall_s", property(lambda _: 0.2))
    monkeypatch.setattr(watch, "PATIENCE", 10)
    queued = iter((1e9, 0.0))
    monkeypatch.setattr(watch._Watch, "_queued_s", lambda _: next(queued))
    sleepy = "import time\ntime.sleep(9)"
    assert sandbox.judge(sleepy).outcome == "timeout"
    monkeypatch.setattr(watch._Watch, "_queued_s", lambda _: 1e9)
    assert sandbox.judge(sleepy).outcome == "infra_error"


def test_law_5_time_in_the_run_queue_is_not_the_programs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # Room on both sides: this must hold on a loaded machine too.
    slow = "import time\ntime.sleep(0.6)\n" + RIGHT
    monkeypatch.setattr(Limits, "wall_s", property(lambda _: 0.5))
    assert sandbox.judge(slow).outcome == "timeout"
    monkeypatch.setattr(watch._Watch, "_queued_s", lambda _: 2.0)
    assert sandbox.judge(slow).outcome == "passed"


def test_a_pool_that_closes_leaves_no_process(sandbox: Sandbox) -> None:
    pool = Pool(2, memory_mb=1024)
    pids = pool.pids()
    pool.close()
    with pytest.raises(client.SandboxError, match="closed"):
        pool.run(Job(RIGHT, "solve", "[1]", Limits(1.0, 256, 64)))
    deadline = time.monotonic() + 2
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
