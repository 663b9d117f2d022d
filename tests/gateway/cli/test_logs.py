"""`pmd logs` over files as the supervisor and the services write them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pmd.gateway.local.logs import LogFile
from pmd.services.common.telemetry import JsonFormatter
from tests.gateway.cli.conftest import Pmd


def record(second: int, service: str, message: str, level: int = logging.INFO, **extra: str) -> str:
    made = logging.makeLogRecord({"created": float(second), "msecs": 0.0, "msg": message, "levelno": level, **extra})
    made.levelname = logging.getLevelName(level)
    return JsonFormatter(service).format(made) + "\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder of an installation that has two runs and is down."""
    folder = tmp_path / "state"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "trainer.log").write_text(
        record(10, "trainer", "step done", run="r-1111")
        + record(40, "trainer", "job process started", logging.WARNING, run="r-2222")
    )
    (folder / "logs" / "worker.log").write_text("plain words\n" + record(30, "controller", "lease lost", run="r-1111"))
    for run in ("r-1111", "r-2222"):
        (folder / "trainer" / "runs" / run).mkdir(parents=True)
    (folder / "trainer" / "runs" / "r-1111" / "log").write_text(record(20, "trainer", "loaded"))
    return folder


def test_logs_of_all_programs_are_one_story_in_the_order_of_time(state: Path, pmd: Pmd) -> None:
    lines = pmd("logs").stdout.splitlines()
    assert [line.split("  ")[1].split()[0] for line in lines[1:]] == ["trainer", "worker", "trainer"]
    assert lines[0] == "worker: plain words"
    assert lines[1].startswith("1970-01-01 00:00:10.000  trainer")
    assert lines[1].endswith("step done  run=r-1111")
    assert pmd("logs", "-n", "1").stdout.splitlines() == lines[-1:]
    assert pmd("logs", "worker").stdout.splitlines() == [lines[0], lines[2]]


def test_of_a_run_all_is_told_and_its_training_too(state: Path, pmd: Pmd) -> None:
    told = pmd("logs", "--run", "r-1").stdout
    assert [word in told for word in ("step done", "loaded", "lease lost", "job process")] == [True, True, True, False]
    assert told.index("step done") < told.index("loaded") < told.index("lease lost")
    assert "loaded" not in pmd("logs", "worker", "--run", "r-1111").stdout
    ambiguous = pmd("logs", "--run", "r-")
    assert (ambiguous.exit_code, "'r-' begins 2 ids: r-1111, r-2222" in ambiguous.stderr) == (2, True)
    assert pmd("logs", "--run", "other").stdout == "nothing is written about other\n"


def test_scripts_get_lines_as_they_were_written(state: Path, pmd: Pmd) -> None:
    (line,) = pmd("logs", "trainer", "-n", "1", "--raw").stdout.splitlines()
    assert json.loads(line)["message"] == "job process started"


def test_what_has_no_log_is_named(state: Path, pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = pmd("logs", "trainr")
    assert (unknown.exit_code, "did you mean 'trainer'?" in unknown.stderr) == (2, True)
    monkeypatch.setenv("PMD_URL", "http://cluster")
    nothing = pmd("logs", "--state-dir", str(tmp_path / "elsewhere"))
    assert nothing.exit_code == 1
    assert "those of http://cluster are where its services run" in nothing.stderr


def test_each_line_is_told_once_and_whole_also_when_the_file_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntw")
    file = LogFile("a", path)
    assert [line.raw for line in file.last(9)] == ["one"]
    with path.open("a") as more:
        more.write("o\nthree\n")
    assert [line.raw for line in file.new()] == ["two", "three"]
    with path.open("a") as more:
        more.write("four\n")
    path.replace(path.with_suffix(".log.1"))  # as the supervisor does
    assert [line.raw for line in file.new()] == ["four"]
    path.write_text("five\n")
    assert [line.raw for line in file.new()] == ["five"]
    assert file.new() == []
    file.close()
    again = LogFile("a", path)
    assert [line.raw for line in again.last(2)] == ["four", "five"]
    again.close()


def test_following_shows_what_is_written_until_it_is_interrupted(state: Path) -> None:
    command = [sys.executable, "-m", "pmd.gateway.cli", "logs", "worker", "-f", "--state-dir", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "worker: plain words\n"
        assert "lease lost" in process.stdout.readline()
        with (state / "logs" / "worker.log").open("a") as more:
            more.write(record(50, "controller", "written later"))
        assert "written later" in process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(2)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "")
