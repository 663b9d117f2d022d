"""The sandbox holds where people run it: as root, as an ordinary user, in a container without any privilege.

The rest of this folder runs as whoever started it; these tests become the other two (see `profiles.py`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.verifier.conftest import Sandbox

ROOT = Path(__file__).parents[2]
PROFILES = ("user", "container")

DRIVER = """
import ctypes, json, os
from pmd.services.verifier.sandbox.tier import open_sandbox
from tests.verifier.conftest import RIGHT, Sandbox
pool, tier = open_sandbox(1, memory_mb=512, libraries=("numpy",), insecure=False)
box = Sandbox(pool, tier)
programs = (RIGHT, "import numpy\\n" + RIGHT, "def solve(a): return 0", "import os; os.fork()")
outcomes = [box.judge(program).outcome for program in programs]
pool.close()
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "tier": tier.name, "escaped": tier.escaped, "outcomes": outcomes, "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16), "bounding": int(status["CapBnd"], 16),
    "no_new_privs": status["NoNewPrivs"], "seccomp": status["Seccomp"],
    "unshare": libc.unshare(0x10000000), "keyctl": libc.syscall(250, 0, 0, 0, 0, 0),
}))
"""


CORPUS = ["-m", "pytest", "-p", "no:cacheprovider", "-n", "0"]
CORPUS += ["tests/verifier/test_attacks.py", "tests/verifier/test_laws.py"]


def run_in(profile: str, *command: str, timeout: float) -> subprocess.CompletedProcess[str]:
    if profile == "container" and os.uname().machine != "x86_64":
        pytest.skip("the emulated container profile knows x86_64 only; run it there")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}
    launcher = [sys.executable, str(Path(__file__).parent / "profiles.py"), profile]
    return subprocess.run(
        [*launcher, sys.executable, *command],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def facts_in(profile: str) -> dict[str, Any]:
    done = run_in(profile, "-c", DRIVER, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_an_ordinary_user_has_the_sandbox() -> None:
    facts = facts_in("user")
    assert facts["uid"] != 0
    assert facts["tier"] in ("T1", "T2")
    assert facts["capabilities"] == 0
    assert facts["escaped"] == []
    assert facts["outcomes"] == ["passed", "passed", "failed", "failed"]


def test_a_container_without_privileges_has_the_sandbox() -> None:
    facts = facts_in("container")
    assert (facts["capabilities"], facts["no_new_privs"], facts["seccomp"]) == (0, "1", "2"), "the profile is in force"
    assert (facts["unshare"], facts["keyctl"]) == (-1, -1), "and refuses what Docker's refuses"
    assert facts["tier"] == "T1", "bubblewrap can't make a container in a container"
    assert facts["escaped"] == []
    assert facts["outcomes"] == ["passed", "passed", "failed", "failed"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_attack_corpus_holds_elsewhere(profile: str) -> None:
    done = run_in(profile, *CORPUS, timeout=1700)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


def test_bubblewrap_hides_the_host(sandbox: Sandbox, tmp_path: Path) -> None:
    if sandbox.tier.name != "T2":
        pytest.skip("no bubblewrap here, or no user namespaces; apt-get install bubblewrap runs it")
    spec = {"kind": "code", "fn_name": "solve", "tests": [{"input": "1", "output": "[0]"}]}
    there = ["/etc/passwd", "/home", "/var", str(tmp_path)]  # not /tmp itself: this checkout may lie below it
    looks = f"import os\ndef solve(a): return [p for p in {there} if os.path.exists(p)]"
    assert "Output: []" in sandbox.judge(looks, spec).feedback
    others = "import os\ndef solve(a): return [p for p in range(2, 40000) if os.path.exists(f'/proc/{p}')]"
    assert re.search(r"Output: \[\d+\]$", sandbox.judge(others, spec).feedback), "it sees itself and nobody else"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_attack_corpus_holds_without_bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("no bubblewrap, so the profiles ran the corpus without it; apt-get install bubblewrap runs both")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, *CORPUS], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:]
