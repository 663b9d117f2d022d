"""The laptop profile: ports, token, and who is told what."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway import launcher
from gateway.launcher import (
    LISTENERS,
    SERVICES,
    LaunchError,
    build_environments,
    build_programs,
    check_redis,
    choose_ports,
    ensure_token,
    start_detached,
    supervise,
    wait_ready,
)
from gateway.supervisor import is_held
from services.common.serve import PORTS

TOKEN = "a-token-of-this-test"
URLS = {name: f"http://127.0.0.1:{port}" for name, port in PORTS.items()}
SHARED = {"PMD_TOKEN": TOKEN, "PMD_STATE_DIR": "/state", "PMD_HOST": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PMD_TOKEN",
        "PMD_REDIS_URL",
        "REDIS_URL",
        "PMD_DATABASE_URL",
        "PMD_DATA_URI",
        "PMD_WEAVIATE_URL",
        "PMD_MEMORY_INDEX",
    ):
        monkeypatch.delenv(name, raising=False)


def test_default_ports_are_those_that_services_listen_on() -> None:
    offsets = {name: PORTS["gateway"] + i for i, name in enumerate(LISTENERS) if name in PORTS}
    assert offsets == PORTS


def test_one_taken_port_moves_all() -> None:
    base = choose_ports(base=21000)["gateway"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 3))
        taken.listen()
        moved = choose_ports(base)
    assert moved["gateway"] > base
    assert [port - moved["gateway"] for port in moved.values()] == list(range(len(LISTENERS)))


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


def test_redis_opens_whatever_the_token_holds(tmp_path: Path) -> None:
    token = "of/openssl+rand@-base64#32=="
    programs = {p.name: p for p in build_programs(tmp_path, choose_ports(), token)}
    url = urlsplit(programs["worker"].env["PMD_REDIS_URL"])
    assert programs["redis"].stdin == f"requirepass {url.password}\n".encode()


def test_each_setting_goes_to_its_owner_only() -> None:
    caller = {
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "s3",
        "PMD_ROLLOUT_DEVICE": "cpu",
        "PMD_SANDBOX_WORKERS": "1",
        "PMD_MEMORY_DATABASE_URL": "sqlite://",
        "PMD_DATABASE_URL": "postgresql://u:p@h/db",
        "PMD_URL": "http://elsewhere",
        "PMD_TYPO": "1",
    }
    of = build_environments(caller, SHARED, URLS)
    assert of["rollout"]["PMD_ROLLOUT_DEVICE"] == "cpu"
    assert of["verifier"]["PMD_SANDBOX_WORKERS"] == "1"
    assert of["memory"]["PMD_MEMORY_DATABASE_URL"] == "sqlite://"
    assert of["control"]["PMD_DATABASE_URL"] == "postgresql://u:p@h/db"
    assert of["control"]["PMD_TYPO"] == "1", "the gateway names it as unknown"
    assert all(SHARED.items() <= env.items() for env in of.values())
    assert not any("PMD_URL" in env for env in of.values())
    assert not any({"PMD_DATABASE_URL", "PMD_TYPO"} & of[name].keys() for name in SERVICES)


def test_the_verifier_knows_nothing_that_it_does_not_need() -> None:
    of = build_environments({"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s3", "HTTPS_PROXY": "p"}, SHARED, URLS)
    known = {"PATH", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTHONUNBUFFERED", *SHARED}
    assert set(of["verifier"]) == known
    assert of["rollout"]["AWS_SECRET_ACCESS_KEY"] == "s3", "artifacts may live in a bucket"


def test_waiting_threads_of_no_process_spin(tmp_path: Path) -> None:
    for program in build_programs(tmp_path, choose_ports(), TOKEN):
        assert program.env["OMP_WAIT_POLICY"] == "PASSIVE", program.name


def test_no_secret_stands_on_a_command_line(tmp_path: Path) -> None:
    programs = build_programs(tmp_path, choose_ports(), TOKEN)
    assert [p.name for p in programs] == ["redis", "gateway", *SERVICES, "worker", "beat"]
    assert not [p.name for p in programs if any(TOKEN in word for word in p.argv)]


def test_redis_of_the_caller_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://broker:6379/2")
    programs = {p.name: p for p in build_programs(tmp_path, choose_ports(), TOKEN)}
    assert "redis" not in programs
    assert programs["worker"].env["PMD_REDIS_URL"] == "redis://broker:6379/2"


@pytest.mark.parametrize("url", ["redis://:secret-word@127.0.0.1:9/0", "nonsense://x"])
def test_a_redis_that_does_not_answer_is_named_without_its_password(url: str) -> None:
    with pytest.raises(LaunchError, match="unset it and one is started here") as refused:
        check_redis(url)
    assert "secret-word" not in str(refused.value)


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
    monkeypatch.setattr("gateway.launcher.read_state", lambda _: {"services": {"rollout": service}})
    with pytest.raises(LaunchError, match=r"(?s)rollout is not ready.*\n  first\n  ImportError: no torch$"):
        list(wait_ready(tmp_path))


def test_a_supervisor_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.log").write_text("no 6 free ports\n")
    with pytest.raises(LaunchError, match="no 6 free ports"):
        list(wait_ready(tmp_path))


def test_a_weaviate_of_our_own_is_told_to_the_memory_service_alone(tmp_path: Path) -> None:
    programs = {p.name: p for p in build_programs(tmp_path, choose_ports(), TOKEN, "weaviate")}
    server, memory = programs["weaviate"], programs["memory"].env
    assert memory["PMD_MEMORY_INDEX"] == "weaviate"
    assert memory["PMD_WEAVIATE_URL"] == server.url
    assert memory["PMD_WEAVIATE_API_KEY"] == server.env["AUTHENTICATION_APIKEY_ALLOWED_KEYS"]
    assert server.env["AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED"] == "false"
    assert TOKEN not in " ".join(server.argv)
    others = [p for name, p in programs.items() if name not in {"weaviate", "memory"}]
    assert not [p.name for p in others if any("WEAVIATE" in key for key in p.env)]


def test_the_callers_own_weaviate_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_WEAVIATE_URL", "http://vectors:8080")
    monkeypatch.setenv("PMD_WEAVIATE_GRPC", "vectors:50051")
    programs = {p.name: p for p in build_programs(tmp_path, choose_ports(), TOKEN, "weaviate")}
    assert "weaviate" not in programs
    assert programs["memory"].env["PMD_WEAVIATE_URL"] == "http://vectors:8080"
