"""Checkers and partial credit of kind `code`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.verifier.conftest import Sandbox

DIVISOR = (
    "def check(input, output, expected):\n    return 1 < int(output) < int(input) and int(input) % int(output) == 0"
)
SPEC: dict[str, Any] = {"kind": "code", "tests": [{"input": "12"}, {"input": "35"}], "checker": DIVISOR}
PAIR: dict[str, Any] = {
    "kind": "code",
    "fn_name": "pair",
    "tests": [{"input": "[4, 9, 5]\n14", "output": "2"}],
    "checker": "def check(input, output, expected):\n"
    "    numbers, total = input\n"
    "    good = len(output) == expected and sum(output) == total and set(output) <= set(numbers)\n"
    "    return good, '' if good else f'{output} is no pair that sums to {total}'\n",
}


def test_a_checker_takes_every_right_output(sandbox: Sandbox) -> None:
    for divisor in ("min(d for d in range(2, n) if n % d == 0)", "max(d for d in range(2, n) if n % d == 0)"):
        assert sandbox.judge(f"n = int(input())\nprint({divisor})", SPEC).outcome == "passed"
    assert sandbox.judge("print(5)", SPEC).outcome == "failed"


def test_a_checker_of_a_function_sees_values_and_speaks(sandbox: Sandbox) -> None:
    assert sandbox.judge("def pair(a, t): return [9, 5]", PAIR).outcome == "passed"
    assert sandbox.judge("def pair(a, t): return [5, 9]", PAIR).outcome == "passed"
    wrong = sandbox.judge("def pair(a, t): return [4, 9]", PAIR)
    assert wrong.outcome == "failed"
    assert wrong.feedback.startswith("[4, 9] is no pair that sums to 14\nInput:")


@pytest.mark.parametrize("partial", [False, True])
def test_scores_of_a_checker_count_only_as_partial_credit(partial: bool, sandbox: Sandbox) -> None:
    checker = "def check(input, output, expected): return min(int(output) / 4, 1.0)"
    spec = {"kind": "code", "tests": [{"input": "1"}, {"input": "4"}], "checker": checker, "partial": partial}
    verdict = sandbox.judge("print(input())", spec)
    assert (verdict.outcome, verdict.reward) == ("failed", 0.625 if partial else 0.0)
    assert sandbox.judge("print(4)", spec).outcome == "passed"


def test_partial_credit_is_the_share_of_tests_that_pass(sandbox: Sandbox) -> None:
    tests = [{"input": str(n), "output": str(n * n)} for n in range(4)]
    spec = {"kind": "code", "tests": tests, "partial": True, "limits": {"cpu_s": 0.3}}
    assert sandbox.judge("print(int(input()) ** 2)", spec).reward == 1.0
    some = sandbox.judge("n = int(input())\nprint(n)", spec)
    assert (some.outcome, some.reward) == ("failed", 0.5)
    slow = sandbox.judge("n = int(input())\nwhile n == 3: pass\nprint(n * n)", spec)
    assert (slow.outcome, slow.reward) == ("timeout", 0.75)
    assert sandbox.judge("print('x')", spec).reward == 0.0


BAD = [
    ("def check(input, output, expected): return 1 / 0", "raised ZeroDivisionError: division by zero (line 1)"),
    ("def check(input, output, expected):\n    while True: pass", "exceeded its time limit"),
    ("def check(input, output, expected): return 'yes'", "must return a bool, a number"),
    ("def check(input, output, expected): return float('nan')", ""),
    ("def check(input, output, expected): return (1, 2)", "must return"),
    ("def check(input, output): return True", "raised TypeError"),
]


@pytest.mark.parametrize(("checker", "why"), BAD)
def test_trouble_of_a_checker_blames_nobody(checker: str, why: str, sandbox: Sandbox) -> None:
    verdict = sandbox.judge("print(3)", {**SPEC, "checker": checker, "limits": {"cpu_s": 0.3}})
    assert verdict.outcome == "infra_error"
    assert why in verdict.error


@pytest.mark.parametrize(
    ("checker", "why"),
    [
        ("def check(", "can't be loaded: SyntaxError"),
        ("x = 1", "defines no function check"),
        ("while 1: pass", "time limit"),
    ],
)
def test_a_checker_that_is_none_is_refused(checker: str, why: str, sandbox: Sandbox) -> None:
    spec = {**SPEC, "checker": checker, "limits": {"cpu_s": 0.3}}
    assert why in str(sandbox.verifier.refusals([spec])[0])


def test_without_a_checker_every_test_has_an_output(sandbox: Sandbox) -> None:
    assert "test 0 has no output" in str(sandbox.verifier.refusals([{**SPEC, "checker": None}])[0])


def test_no_code_of_a_program_runs_beside_the_checker(sandbox: Sandbox) -> None:
    """What a program prints reaches the checker as a text, whatever it looks like; its process holds no checker."""
    spying = "import sys\nprint('found' if ''.join(['SEC', 'RET']) in repr(sys._getframe(1).f_locals) else 'nothing')"
    checker = "def check(input, output, expected): return output == 'nothing\\n'  # SECRET"
    assert sandbox.judge(spying, {**SPEC, "checker": checker}).outcome == "passed"
    forged = 'import os\nos.write(3, b\'{"value": [1, ""]}.\')\nprint(7)'
    assert sandbox.judge(forged, SPEC).outcome == "failed"


def test_an_output_that_no_text_encoding_holds_is_still_a_text(sandbox: Sandbox) -> None:
    checker = "def check(input, output, expected): return output == '\\udcff\\n'"
    program = "import sys\nsys.stdout.buffer.write(bytes([255, 10]))"
    assert sandbox.judge(program, {**SPEC, "checker": checker}).outcome == "passed"
