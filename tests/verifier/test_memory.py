"""A program whose memory is used up ends as `memory`: whatever used it, at every limit, whatever it had printed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.verifier.conftest import Sandbox

LIMITS_MB = (128, pytest.param(256, marks=pytest.mark.slow))
PRINTED = {"input": "", "output": "42"}
WAYS = {
    "texts": "l = []\nwhile True: l.append(str(len(l)))",
    "keys": "d = {}\nwhile True: d[len(d)] = None",
    "tuples": "x = None\nwhile True: x = (x, x)[:1] + (1,)",
    "objects": "class C: pass\nl = []\nwhile True:\n    c = C()\n    c.x = l\n    l.append(c)",
    "a generator's frames": "def g(n): yield from g(n)\nl = []\nwhile True:\n    l.append(g(1))",
    "exceptions": "e = None\nwhile True:\n    n = ValueError('x')\n    n.__cause__ = e\n    e = n",
    "bytes": "l = []\nwhile True: l.append(bytes(100_000))",
    "one array": "x = bytearray(8 << 30)",
    "one text": "x = 'x'\nwhile True: x += x",
    "maps": "import mmap\nl = []\nwhile True: l.append(mmap.mmap(-1, 4 << 20))",
    "a map": "import mmap\nmmap.mmap(-1, 1 << 40)",
    "stacks of threads": (
        "import threading\nthreading.stack_size(32 << 20)\nstop = threading.Event()\n"
        "while True: threading.Thread(target=stop.wait, daemon=True).start()"
    ),
    "many threads": (
        "import threading\nthreading.stack_size(32768)\nstop = threading.Event()\n"
        "while True: threading.Thread(target=stop.wait, daemon=True).start()"
    ),
    "the C stack": (
        "import sys\nsys.setrecursionlimit(10**8)\n"
        "class C:\n    def __getattr__(self, name): return getattr(self, name)\nC().x"
    ),
    "frames": "import sys\nsys.setrecursionlimit(10**8)\ndef f(n): return f(n + 1)\nf(0)",
    "numpy": "import numpy as np\nl = []\nwhile True: l.append(np.ones(10_000))",
    "no memory for the error": (
        "l = []\ntry:\n    while True: l.append(bytes(1000))\nexcept MemoryError:\n    while True: l.append([])"
    ),
    "an exit handler": "import atexit\nl = []\ndef more():\n    while True: l.append(str(len(l)))\nmore()",
    "the output's buffer": "import io, sys\nsys.stdout = io.StringIO()\nwhile True: print('x' * 1000)",
}


@pytest.mark.parametrize("memory_mb", LIMITS_MB)
@pytest.mark.parametrize("way", WAYS)
def test_memory_that_is_used_up_is_told(way: str, memory_mb: int, sandbox: Sandbox) -> None:
    spec: dict[str, Any] = {"kind": "code", "limits": {"memory_mb": memory_mb, "cpu_s": 20, "output_kb": 64}}
    verdict = sandbox.judge(f"print(42, flush=True)\n{WAYS[way]}", {**spec, "tests": [PRINTED]})
    assert verdict.outcome == "memory", verdict
    called = {**spec, "fn_name": "solve", "tests": [{"input": "1", "output": "1"}]}
    body = WAYS[way].replace("\n", "\n    ")
    assert sandbox.judge(f"def solve(a):\n    {body}", called).outcome == "memory"


ENDS = {
    "import ctypes\nctypes.CDLL(None).exit(0)": "failed",
    "import ctypes\nctypes.CDLL(None)._exit(0)": "failed",
    "import os\nos._exit(0)": "passed",
    "from posix import _exit\n_exit(0)": "passed",
    "import sys\nsys.exit(86)": "passed",
    "import os\nos._exit(86)": "passed",
    "import os\nos.write(3, b'{')": "passed",
}


@pytest.mark.parametrize("program", ENDS)
def test_an_end_without_the_harness_word_is_not_the_programs_own(program: str, sandbox: Sandbox) -> None:
    verdict = sandbox.judge(f"print(42, flush=True)\n{program}", {"kind": "code", "tests": [PRINTED]})
    assert verdict.outcome == ENDS[program], verdict
