"""A test run that is killed leaves nothing of its own behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from pmd.services.common.process import started

SCRIPT = """
import subprocess, time
from tests.reaped import reaped
ended = subprocess.Popen(["sleep", "600"], start_new_session=True)
with reaped(ended.pid):
    pass
process = subprocess.Popen(["sleep", "600"], start_new_session=True)
with reaped(process.pid):
    print(ended.pid, process.pid, flush=True)
    time.sleep(600)
"""


def test_what_was_started_in_a_session_of_its_own_ends_with_killed_tests() -> None:
    tests = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert tests.stdout is not None
    released, owned = map(int, tests.stdout.readline().split())
    tests.kill()
    tests.wait()
    deadline = time.monotonic() + 20
    while started(owned) is not None:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)
    assert started(released) is not None, "what has left the context is nobody's any more"
    subprocess.run(["kill", str(released)], check=True)
