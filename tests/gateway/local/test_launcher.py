"""Starting an installation: its token, who has started it, and what is said when it does not come up."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.local import launcher
from pmd.gateway.local.launcher import ensure_token, start_detached, supervise, wait_ready
from pmd.gateway.local.programs import LaunchError
from pmd.gateway.local.supervisor import is_held

TOKEN = "a-token-of-this-test"

pytestmark = pytest.mark.usefixtures("own_environment")


def test_the_token_is_private_and_kept(tmp_path: Path) -> None:
    token = ensure_token(tmp_path / "state")
    assert len(token) >= 32
    assert stat.S_IMODE((tmp_path / "state" / "token").stat().st_mode) == 0o600
    assert ensure_token(tmp_path / "state") == token


def test_a_given_token_is_used_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_token(tmp_path)
    monkeypatch.setenv("PMD_TOKEN", TOKEN)
    assert ensure_token(tmp_path) == TOKEN
    assert (tmp_path / "token").read_text() == TOKEN


@pytest.mark.parametrize("token", ["short", "a" * 15, "no-token-but-\u00e9-in-it", "two-lines\nof-a-long-token"])
def test_a_token_that_no_service_takes_is_refused_and_not_kept(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMD_TOKEN", token)
    with pytest.raises(LaunchError, match="PMD_TOKEN holds no token: 16 or more characters"):
        ensure_token(tmp_path)
    assert not (tmp_path / "token").exists()


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """What `start_detached` has started: sleepers in the place of supervisors."""
    found: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
        found.append(real(["sleep", "0" if "--faster" in argv else "60"], **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return found


def test_an_interrupted_start_leaves_nothing_behind(
    tmp_path: Path, spawned: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "read_state", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        start_detached(tmp_path)
    assert [process.poll() for process in spawned] == [-signal.SIGTERM]


def test_who_comes_second_has_started_nothing(
    tmp_path: Path, spawned: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its end would stop what another call has started."""
    monkeypatch.setattr(launcher, "read_state", lambda _: {"pid": 1})
    assert not start_detached(tmp_path, "--faster")
    assert [process.poll() for process in spawned] == [0]


def test_of_two_that_start_at_once_both_know_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second supervisor waits with its token until the first has written one."""
    used: list[str] = []

    def build(_: Path, __: Any, token: str, ___: str) -> list[Any]:
        used.append(token)
        raise LaunchError("enough")

    def ensure(state_dir: Path) -> str:
        assert is_held(state_dir)
        return ensure_token(state_dir)

    monkeypatch.setattr(launcher, "build_programs", build)
    monkeypatch.setattr(launcher, "ensure_token", ensure)
    for _ in range(2):
        with pytest.raises(LaunchError, match="enough"):
            supervise(tmp_path)
    assert used == [(tmp_path / "token").read_text()] * 2


def test_a_service_that_does_not_come_up_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "rollout.log"
    cause = {"message": "can't start", "traceback": "Traceback ..\n  File ..\nImportError: no torch\n"}
    log.write_text(f"first\n{json.dumps(cause)}\n")
    service = {"pid": None, "url": "http://127.0.0.1:9", "restarts": 9, "log": str(log), "since": 0.0}
    monkeypatch.setattr("pmd.gateway.local.launcher.read_state", lambda _: {"services": {"rollout": service}})
    with pytest.raises(LaunchError, match=r"(?s)rollout is not ready.*\n  first\n  ImportError: no torch$"):
        list(wait_ready(tmp_path))


def test_a_supervisor_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.log").write_text("no 6 free ports\n")
    with pytest.raises(LaunchError, match="no 6 free ports"):
        list(wait_ready(tmp_path))
