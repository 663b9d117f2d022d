"""What runs on one machine: ports, and who is told what."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pmd.gateway.local.programs import (
    LISTENERS,
    SERVICES,
    LaunchError,
    build_environments,
    build_programs,
    check_redis,
    choose_ports,
    inherited,
)
from pmd.services.common.serve import PORTS

TOKEN = "a-token-of-this-test"
URLS = {name: f"http://127.0.0.1:{port}" for name, port in PORTS.items()}
SHARED = {"PMD_TOKEN": TOKEN, "PMD_STATE_DIR": "/state", "PMD_HOST": "127.0.0.1"}

pytestmark = pytest.mark.usefixtures("own_environment")


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


def test_installations_that_start_at_once_have_ports_of_their_own() -> None:
    """What one has chosen still looks free to the other until its listeners are up."""
    base = choose_ports(base=22000)["gateway"]
    code = f"from pmd.gateway.local.programs import choose_ports; print(choose_ports({base})['gateway'])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) > base


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


def test_what_a_shell_holds_for_other_programs_stops_none_of_ours() -> None:
    shell = {
        "PATH": "/bin",
        "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
        "PYTHONWARNINGS": "error",
        "CELERY_BROKER_URL": "x",
    }
    of = build_environments(shell, SHARED, URLS)
    assert not [(service, name) for service, env in of.items() for name in shell if name in env and name != "PATH"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from prometheus_client import Gauge; Gauge('a', 'b')"],
        env=inherited({**os.environ, **shell}),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


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
