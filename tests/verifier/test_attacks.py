"""Every case of `attacks/` ends as its table says, and leaves the sandbox as it was."""

from __future__ import annotations

import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import pmd.services.verifier.app
from pmd.services.verifier.sandbox import watch
from pmd.services.verifier.sandbox.job import End, Job, Limits
from pmd.services.verifier.sandbox.tier import SandboxUnavailable, open_sandbox
from pmd.services.verifier.verification import Submission
from tests.verifier.conftest import RIGHT, Sandbox

FOLDER = Path(__file__).parent / "attacks"
TABLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
GOLD = '"gold-5f0e9c2b7d31a846"'

TRY = """
import ctypes, os
LIBC = ctypes.CDLL(None, use_errno=True)
SERVICE = {service!r}
def syscall(*numbers):
    result = LIBC.syscall(*[ctypes.c_long(n) for n in numbers])
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def solve(attempt):
    try:
        exec(attempt, globals())
    except OSError as error:
        return "denied"
    return "escaped"
"""


def entries(kind: str) -> list[Any]:
    return [
        pytest.param(case, id=f"{table}-{case['name']}")
        for table, content in TABLES.items()
        for case in content.get(kind, [])
    ]


def spec_of(case: dict[str, Any]) -> dict[str, Any]:
    output = "1" + "0" * case["big_output"] if "big_output" in case else case.get("output", GOLD)
    return {
        "kind": "code",
        "fn_name": case.get("fn_name", "solve"),
        "tests": [{"input": "x " * case.get("big_input", 0) or case.get("input", "[3, 1, 4, 2]"), "output": output}],
        "limits": {"cpu_s": 0.4, "memory_mb": 256, "output_kb": 1024, **case.get("limits", {})},
        "compare": case.get("compare", "livecodebench"),
    }


@pytest.fixture(autouse=True)
def short_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that sleep are ended after 1.2 s, not 2.4 s; those that want CPU get it, however busy the machine is."""
    monkeypatch.setattr(watch, "PATIENCE", 50)
    monkeypatch.setattr(Limits, "wall_s", property(lambda limits: limits.cpu_s + 0.8))


@pytest.mark.parametrize("case", entries("cases"))
def test_program_ends_as_the_table_says(case: dict[str, Any], sandbox: Sandbox) -> None:
    verdict = sandbox.judge(case["program"], spec_of(case))
    outcomes = case["outcome"] if isinstance(case["outcome"], list) else [case["outcome"]]
    assert verdict.outcome in outcomes, verdict
    assert verdict.reward == (1.0 if verdict.outcome == "passed" else 0.0)
    assert case.get("says", "") in verdict.feedback
    assert GOLD.strip('"') not in verdict.feedback
    assert sandbox.judge(RIGHT).outcome == "passed", "the next program suffers"


@pytest.mark.parametrize("case", entries("answers"))
def test_answer_is_judged_as_the_table_says(case: dict[str, Any], sandbox: Sandbox) -> None:
    verdict = sandbox.verifier.verify([Submission(case["spec"], case["completion"])])[0]
    outcomes = case["outcome"] if isinstance(case["outcome"], list) else [case["outcome"]]
    assert verdict.outcome in outcomes, verdict
    assert verdict.reward == (1.0 if verdict.outcome == "passed" else 0.0)
    assert case.get("says", "") in verdict.feedback


@pytest.mark.parametrize("case", entries("attempts"))
def test_attempt_is_denied(case: dict[str, Any], sandbox: Sandbox) -> None:
    if case.get("machine", os.uname().machine) != os.uname().machine:
        pytest.skip(f"system call numbers of another machine; {case['machine']} runs it")
    source = TRY.format(service=pmd.services.verifier.app.__file__)
    spec = {
        "kind": "code",
        "fn_name": "solve",
        "tests": [{"input": json.dumps(case["attempt"]), "output": '"denied"'}],
    }
    verdict = sandbox.judge(source, spec)
    assert verdict.outcome == "passed", verdict.feedback


def test_foreign_calling_conventions_kill_the_process(sandbox: Sandbox) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has foreign calling conventions; run it there")
    x32 = "import ctypes\ndef solve(a): return ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39))"
    i386 = (
        "import ctypes, mmap\n"
        "def solve(a):\n"
        "    code = mmap.mmap(-1, 4096, prot=7)\n"
        "    code.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20 (getpid); int 0x80; ret\n"
        "    at = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "    return ctypes.CFUNCTYPE(ctypes.c_int)(at)()\n"
    )
    for program in (x32, i386):
        verdict = sandbox.judge(program)
        assert verdict.outcome == "failed"
        assert "Bad system call" in verdict.feedback


def test_the_environment_of_a_child_is_ours_alone(sandbox: Sandbox) -> None:
    program = "import os\ndef solve(a): return sorted(os.environ)"
    spec = spec_of({"output": '["HOME", "LANG", "PATH"]'})
    assert sandbox.judge(program, spec).outcome == "passed"


@pytest.mark.parametrize("held_by_the_service", [0, 300])
def test_a_child_holds_four_descriptors(held_by_the_service: int) -> None:
    program = (
        "import os\n"
        "def solve(a):\n"
        "    held = []\n"
        "    for fd in range(1024):\n"
        "        try:\n            os.fstat(fd)\n            held.append(fd)\n"
        "        except OSError:\n            pass\n"
        "    return held"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(held_by_the_service):  # so that the zygote's socket has a high number
            stack.enter_context(Path(os.devnull).open())
        pool, tier = open_sandbox(1, memory_mb=512, insecure=False)
        stack.callback(pool.close)
        assert Sandbox(pool, tier).judge(program, spec_of({"output": "[0, 1, 2, 3]"})).outcome == "passed"


def test_one_program_leaves_nothing_for_the_next(sandbox: Sandbox) -> None:
    mark = "import builtins, json, sys\nbuiltins.mark = json.mark = sys.mark = 1\ndef solve(a): return 0"
    look = "import builtins, json, sys\ndef solve(a): return any(hasattr(x, 'mark') for x in (builtins, json, sys))"
    for _ in range(3):
        sandbox.judge(mark)
        assert sandbox.judge(look, spec_of({"output": "false"})).outcome == "passed"


def test_threads_work(sandbox: Sandbox) -> None:
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def solve(a):\n"
        "    with ThreadPoolExecutor(4) as pool:\n"
        "        return list(pool.map(lambda x: x * x, a))\n"
    )
    assert sandbox.judge(program, spec_of({"output": "[9, 1, 16, 4]"})).outcome == "passed"


def test_large_unread_input_blocks_nobody(sandbox: Sandbox) -> None:
    spec = spec_of({"fn_name": None, "input": "x" * (5 << 20), "output": "42"})
    assert sandbox.judge("print(42)", spec).outcome == "passed"


def test_programs_are_deterministic(sandbox: Sandbox) -> None:
    program = "import random\ndef solve(a): return [random.random(), list({'x', 'y', 'z', 'w'})]"
    feedback = {sandbox.judge(program).feedback for _ in range(6)}
    assert len(feedback) == 1


def test_randomness_of_the_kernel_repeats(sandbox: Sandbox) -> None:
    program = (
        "import os, random, secrets, uuid\nimport numpy as np\n"
        "def solve(a):\n"
        "    return [os.urandom(4).hex(), os.urandom(4).hex(), secrets.token_hex(4), str(uuid.uuid4()),"
        " random.SystemRandom().random(), float(np.random.default_rng().random())]"
    )
    feedback = {sandbox.judge(program).feedback for _ in range(4)}
    assert len(feedback) == 1
    assert "Error" not in feedback.pop()
    sandbox_of_its_own, tier = open_sandbox(1, memory_mb=512, libraries=("numpy",), insecure=False)
    try:
        assert Sandbox(sandbox_of_its_own, tier).judge(program).feedback == sandbox.judge(program).feedback
    finally:
        sandbox_of_its_own.close()
    twice = "import os\ndef solve(a): return os.urandom(8) == os.urandom(8)"
    assert sandbox.judge(twice, spec_of({"output": "false"})).outcome == "passed"


def test_memory_stays_below_its_limit(sandbox: Sandbox) -> None:
    grow = "hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 20))"
    execution = sandbox.pool.run(Job(grow, None, "", Limits(cpu_s=4, memory_mb=256, output_kb=64)))
    assert execution.end is End.MEMORY
    assert execution.max_rss_kb < (256 + 64) << 10, "the limit and what every child shares with its zygote"


def test_time_ends_at_its_limit(sandbox: Sandbox) -> None:
    spin = Job("while True: pass", None, "", Limits(cpu_s=0.3, memory_mb=128, output_kb=64))
    used = sorted(sandbox.pool.run(spin).cpu_s for _ in range(3))
    assert used[0] >= 0.3
    assert used[1] < 0.4


def test_hogs_wait_for_each_other() -> None:
    """Three programs of 400 MB in a pool of 512 MB run one after the other, however many workers there are."""
    hog = Job("x = bytearray(300 << 20)\nimport time\ntime.sleep(0.1)", None, "", Limits(1, 400, 64))
    pool, _ = open_sandbox(3, memory_mb=512, insecure=False)
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(3) as threads:
            ends = [e.end for e in threads.map(pool.run, [hog] * 3)]
        assert ends == ["exit"] * 3
        assert time.monotonic() - began > 0.3
    finally:
        pool.close()


def test_variables_of_the_host_do_not_reach_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the host')")
    for name in ("PYTHONPATH", "PYTHONHOME_", "PYTHONSTARTUP", "LD_PRELOAD_", "PMD_SECRET"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pool, tier = open_sandbox(1, memory_mb=512, insecure=False)
    try:
        program = "import json, os, sys\ndef solve(a): return [sorted(os.environ), os.getcwd(), '' in sys.path]"
        spec = spec_of({"output": '[["HOME", "LANG", "PATH"], "/", false]'})
        assert Sandbox(pool, tier).judge(program, spec).outcome == "passed"
    finally:
        pool.close()


def test_a_library_that_is_not_installed_is_named() -> None:
    with pytest.raises(SandboxUnavailable, match="no_such_library"):
        open_sandbox(1, memory_mb=512, libraries=("no_such_library",), insecure=False)
