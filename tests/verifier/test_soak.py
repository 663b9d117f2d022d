"""Ten thousand honest and hostile jobs through one service: nothing is left behind and memory stays flat.

`PYTHONPATH=. python -m tests.verifier.test_soak 100000` judges as many as you like.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.verifier.conftest import RIGHT
from tests.verifier.test_lifecycle import HEADERS, Service
from tests.verifier.test_service import descendants, wait_until

BATCH = 50
SPEC: dict[str, Any] = {
    "kind": "code",
    "fn_name": "solve",
    "tests": [{"input": "[3, 1, 4, 2]", "output": "[1, 4]"}],
    "limits": {"cpu_s": 0.2, "memory_mb": 256, "output_kb": 256, "total_s": 0.3},
}
PROGRAMS: dict[str, tuple[float, str, str]] = {
    # name: (share, program, outcome); what takes long is rare, so that ten thousand fit into minutes
    "honest": (50, RIGHT, "passed"),
    "wrong": (10, "def solve(a): return a", "failed"),
    "threads": (4, f"import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n{RIGHT}", "passed"),
    "numpy": (5, "import numpy as np\ndef solve(a): return [int(np.min(a)), int(np.max(a))]", "passed"),
    "raises": (5, "def solve(a): return a[99]", "failed"),
    "forks": (4, "import os\ndef solve(a):\n    while True: os.fork()", "failed"),
    "connects": (3, "import socket\ndef solve(a): socket.socket()", "failed"),
    "writes": (3, "def solve(a): open('/tmp/pmd-soak', 'w')", "failed"),
    "exits": (3, "import os\nos._exit(0)", "failed"),
    "forges": (3, "import os\nos.write(3, b'{\"value\": [0]}')\nos._exit(0)", "failed"),
    "closes": (1, "import os\nos.closerange(0, 64)\nos._exit(0)", "failed"),
    "hoards": (2, "def solve(a): return len(bytearray(1 << 30))", "memory"),
    "floods": (0.5, "def solve(a):\n    while True: print('x' * 65536)", "output_limit"),
    "spins": (0.5, "def solve(a):\n    while True: pass", "timeout"),
    "sleeps": (0.3, "import time\ndef solve(a): time.sleep(1e6)", "timeout"),
    "bombs": (0.3, "import threading, time\nthreading.stack_size(32768)\nwhile True:\n"
              "    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()", "memory timeout"),
    "crashes": (0.3, "import ctypes\nctypes.string_at(0)", "failed"),
}  # fmt: skip
ANSWERS: dict[str, tuple[float, dict[str, Any], str, str]] = {
    # name: (share, spec, completion, outcome)
    "letter": (3, {"kind": "choice", "answer": "B"}, "<answer>B</answer>", "passed"),
    "text": (3, {"kind": "exact", "answer": "Neon"}, "<answer>Iron</answer>", "failed"),
    "equal": (2, {"kind": "math", "answer": "0.5"}, "\\boxed{\\frac{1}{2}}", "passed"),
    "tower": (0.1, {"kind": "math", "answer": "5", "cpu_s": 0.3}, "<answer>9^{9^{9^9}}</answer>", "timeout memory"),
    "valid": (2, {"kind": "json_schema", "json_schema": {"type": "object"}}, "{}", "passed"),
}


@dataclass(frozen=True)
class Holdings:
    """What the service holds while it is idle."""

    processes: int
    descriptors: int
    files: int
    """In its state folder and in /tmp."""
    rss_mb: float
    """Of the service."""
    zygotes_rss_mb: float


def holdings(service: Service, state: Path) -> Holdings:
    below = descendants(service.process.pid)
    return Holdings(
        len(below),
        len(list(Path(f"/proc/{service.process.pid}/fd").iterdir())),
        len(list(state.rglob("*"))) + len(list(Path("/tmp").glob("pmd-*"))),
        rss_mb(service.process.pid),
        sum(rss_mb(pid) for pid in below),
    )


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def job(name: str, number: int) -> tuple[dict[str, Any], str]:
    """The item named `name`, of other text than every other one, and the outcomes that it may have."""
    if name in ANSWERS:
        _, spec, completion, outcome = ANSWERS[name]
        return {"verifier": spec, "completion": f"<think>{number}</think>{completion}"}, outcome
    _, program, outcome = PROGRAMS[name]
    return {"verifier": SPEC, "completion": f"```python\n{program}\n# {number}\n```"}, outcome


def soak(count: int, state: Path) -> tuple[Holdings, Holdings]:
    """Judge `count` jobs; what the service held after the first fifth, and at the end."""
    dice = random.Random(0)
    shares = {name: share for name, (share, *_) in (PROGRAMS | ANSWERS).items()}
    early = None
    service = Service(state, PMD_SANDBOX_WORKERS="2", PMD_SANDBOX_MEMORY_MB="2048")
    seen: Counter[str] = Counter()
    began = time.monotonic()
    try:
        for first in range(0, count, BATCH):
            drawn = dice.choices(list(shares), list(shares.values()), k=BATCH)
            items, outcomes = zip(*(job(name, first + n) for n, name in enumerate(drawn)), strict=True)
            answer = httpx.post(f"{service.base}/v1/verify", json={"items": items}, headers=HEADERS, timeout=600)
            verdicts = answer.raise_for_status().json()["verdicts"]
            for name, outcome, verdict in zip(drawn, outcomes, verdicts, strict=True):
                assert verdict["outcome"] in outcome, (name, verdict)
                seen[verdict["outcome"]] += 1
            if early is None and first >= count // 5:
                early = idle(service, state)
        assert early is not None
        print(f"{count} jobs in {time.monotonic() - began:.0f} s: {dict(seen)}")
        return early, idle(service, state)
    finally:
        service.process.kill()
        service.process.wait()


def idle(service: Service, state: Path) -> Holdings:
    """Holdings once every worker has its zygote again."""
    honest = {"verifier": SPEC, "completion": f"```python\n{RIGHT}\n```"}
    for n in range(8):
        item = {**honest, "completion": f"```python\n{RIGHT}\n# idle {n}\n```"}
        httpx.post(f"{service.base}/v1/verify", json={"items": [honest, item]}, headers=HEADERS, timeout=60)
    wait_until(lambda: service.metric("pmd_sandbox_running") == 0, 10)
    time.sleep(1.0)
    return holdings(service, state)


def check_nothing_is_left(early: Holdings, late: Holdings) -> None:
    assert late.processes <= early.processes
    assert late.descriptors <= early.descriptors + 2, "connections come and go"
    assert late.files == early.files
    assert late.rss_mb < early.rss_mb + 20
    assert late.zygotes_rss_mb < early.zygotes_rss_mb + 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_service_that_has_judged_ten_thousand_holds_what_it_held_before(tmp_path: Path) -> None:
    check_nothing_is_left(*soak(10_000, tmp_path))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = soak(int(sys.argv[1]), Path(folder))
    print(*found, sep="\n")
    check_nothing_is_left(*found)
