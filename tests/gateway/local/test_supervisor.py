"""A supervised program comes back after it is killed, and nothing outlives the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.local import launcher
from pmd.gateway.local.supervisor import AlreadyRunning, end_leftovers, hold, is_held, read_state

# A supervisor of two programs, one of which has a child of its own.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from pmd.gateway.local import launcher
from pmd.gateway.local.supervisor import Program, Supervisor
sleep = (sys.executable, "-c", "import time; time.sleep(600)")
parent = (sys.executable, "-c", "import subprocess, sys, time; p = subprocess.Popen(%r); "
          "print(p.pid, flush=True); time.sleep(600)" % (sleep,))
echo = (sys.executable, "-c", "import sys, time; print(sys.stdin.read(), flush=True); time.sleep(600)")
programs = [Program("parent", parent, os.environ), Program("echo", echo, os.environ, stdin=b"secret", stops_last=True)]
supervisor = Supervisor(Path(sys.argv[1]), programs, {"url": "here"})
signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
supervisor.run()
"""


def until(claim: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first truthy value of `claim`; fails when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := claim():
            return value
        time.sleep(0.02)
    pytest.fail("did not happen in time")


def alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def supervised(state_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(state_dir)])
    try:
        until(lambda: read_state(state_dir) and log(state_dir, "parent") and log(state_dir, "echo"))
        yield process
    finally:
        process.kill()
        process.wait()
        until(lambda: not is_held(state_dir))


def log(state_dir: Path, name: str) -> list[str]:
    path = state_dir / "logs" / f"{name}.log"
    return path.read_text().split() if path.exists() else []


def pids(state_dir: Path) -> dict[str, int]:
    state = read_state(state_dir)
    assert state is not None
    return {name: service["pid"] for name, service in state["services"].items()}


def test_a_killed_program_comes_back_and_its_children_are_not_left_behind(tmp_path: Path) -> None:
    with supervised(tmp_path):
        first = pids(tmp_path)
        grandchild = int(log(tmp_path, "parent")[0])
        os.kill(first["parent"], signal.SIGKILL)
        until(lambda: pids(tmp_path)["parent"] not in {None, first["parent"]})
        assert not alive(grandchild)
        assert pids(tmp_path)["echo"] == first["echo"]
        state = read_state(tmp_path)
        assert state is not None
        assert state["services"]["parent"]["restarts"] == 1


def test_everything_dies_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        everyone = [*pids(tmp_path).values(), int(log(tmp_path, "parent")[0])]
        process.kill()
        until(lambda: not is_held(tmp_path))
        until(lambda: not any(map(alive, everyone)))


def test_a_killed_reaper_is_replaced(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        everyone = list(pids(tmp_path).values())

        def reapers() -> list[int]:
            found = subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
            )
            return [int(line.split()[0]) for line in found.stdout.splitlines() if "pmd.gateway.local.reaper" in line]

        (old,) = until(reapers)
        os.kill(old, signal.SIGKILL)
        until(lambda: [pid for pid in reapers() if pid != old and alive(pid)])
        time.sleep(0.3)  # it is told of the groups in the same tick
        process.kill()
        until(lambda: not any(map(alive, everyone)))


def test_sigterm_stops_everything_and_removes_the_state(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        everyone = [*pids(tmp_path).values(), int(log(tmp_path, "parent")[0])]
        process.terminate()
        assert process.wait(20) == 0
        assert not any(map(alive, everyone))
        assert not (tmp_path / "up.json").exists()


def test_secrets_arrive_by_stdin(tmp_path: Path) -> None:
    with supervised(tmp_path):
        assert log(tmp_path, "echo") == ["secret"]


def test_a_state_folder_has_one_supervisor(tmp_path: Path) -> None:
    with hold(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(AlreadyRunning, match="pmd down"), hold(tmp_path, patience_s=0.0):
            pass
    assert not is_held(tmp_path)


def test_a_leftover_state_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps({"pid": 1}))
    assert read_state(tmp_path) is None


def test_a_killed_supervisor_says_nothing_from_that_moment(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        process.kill()
        process.wait()
        assert read_state(tmp_path) is None


def test_what_is_left_when_the_reaper_is_killed_too_is_ended_by_whoever_comes_next(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        everyone = [*pids(tmp_path).values(), int(log(tmp_path, "parent")[0])]
        (reaper,) = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "pmd.gateway.local.reaper"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        process.send_signal(signal.SIGSTOP)  # else it starts another reaper
        os.kill(int(reaper), signal.SIGKILL)
        process.kill()
        process.wait()
        assert all(map(alive, everyone))
        assert launcher.stop(tmp_path)
        assert not any(map(alive, everyone))
        assert not launcher.stop(tmp_path)


def test_a_stranger_with_a_reused_id_is_no_leftover(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        service = {"pid": stranger.pid, "ticks": 1}
        (tmp_path / "up.json").write_text(json.dumps({"pid": 1, "services": {"redis": service}}))
        assert end_leftovers(tmp_path) == []
        assert stranger.poll() is None
        stranger.kill()
