"""Law 6 on the real installation: kill -9 of every process in turn does not end a run, nor who watches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.local import launcher
from pmd.gateway.local.supervisor import read_state
from tests.reaped import reaped

ROOT = Path(__file__).parents[3]
PMD = (sys.executable, "-c", "from pmd.gateway.cli.main import app; app()")
SMALL = ("schedule.steps=3", "schedule.problems_per_step=8", "evaluation.samples=1")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.fixture
def state_dir(tmp_path: Path, ends: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("PMD_URL", "PMD_TOKEN", "PMD_REDIS_URL", "REDIS_URL", "PMD_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMD_STATE_DIR", str(tmp_path))
    yield tmp_path
    launcher.stop(tmp_path)


def kill(state_dir: Path, name: str) -> None:
    """SIGKILL to one program, as soon as it runs."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        state = read_state(state_dir)
        assert state is not None
        if pid := state["services"][name]["pid"]:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.1)
    pytest.fail(f"{name} does not come back")


def start(state_dir: Path, ends: ExitStack) -> dict[str, Any]:
    """Start an installation that ends with the tests at the latest."""
    launcher.start_detached(state_dir)
    state = read_state(state_dir)
    assert state is not None
    ends.enter_context(reaped(state["pid"]))
    return state


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_run_outlives_every_process(state_dir: Path, ends: ExitStack) -> None:
    start(state_dir, ends)
    names = [name for name, _ in launcher.wait_ready(state_dir)]
    overrides = [word for pair in SMALL for word in ("--set", pair)]
    recipe = str(ROOT / "recipes" / "pocket.yaml")
    watching = subprocess.Popen(
        [*PMD, "runs", "create", recipe, "--watch", *overrides], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    time.sleep(5)
    for name in names:
        kill(state_dir, name)
        time.sleep(2)
    out, _ = watching.communicate(timeout=400)
    assert watching.returncode == 0, out
    steps = [line.split()[1] for line in out.splitlines() if line.startswith("step ")]
    assert list(dict.fromkeys(steps)) == ["0/3", "1/3", "2/3", "3/3"]


def test_an_installation_whose_supervisor_was_killed_starts_again(state_dir: Path, ends: ExitStack) -> None:
    state = start(state_dir, ends)
    os.kill(state["pid"], signal.SIGKILL)
    start(state_dir, ends)
    assert len(list(launcher.wait_ready(state_dir))) == len(state["services"])
