"""The laws are defended: break one in a copy of the code, and its tests fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MUTATIONS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "mutations.yaml").read_text())
COPIED = ("pmd", "services", "gateway", "examples", "recipes", "tests")
TESTS_FAILED = 1
"""What pytest exits with when tests ran and some failed; a code that can't be imported is another status."""
HANGS_S = 240.0
"""Longer than any of the named tests takes."""


def title(mutation: dict[str, Any]) -> str:
    return f"law {mutation['law']}: {mutation['what']}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=title)
def test_the_line_to_break_is_there_once(mutation: dict[str, Any]) -> None:
    assert (ROOT / mutation["file"]).read_text().count(mutation["old"]) == 1


def test_every_law_is_defended() -> None:
    assert {mutation["law"] for mutation in MUTATIONS} == set(range(1, 14))


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=title)
def test_a_broken_law_is_noticed(mutation: dict[str, Any], tmp_path: Path) -> None:
    for room in COPIED:
        shutil.copytree(ROOT / room, tmp_path / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / mutation["file"]
    broken.write_text(broken.read_text().replace(mutation["old"], mutation["new"]))
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "--timeout", "60", "-m", "not slow and not chaos"]
    with subprocess.Popen(
        [*command, *mutation["tests"].split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as tests:
        try:
            said, _ = tests.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired:  # a law broken so that its test never ends is noticed, too
            os.killpg(tests.pid, signal.SIGKILL)
            return
    assert tests.returncode == TESTS_FAILED, said[-2000:]
