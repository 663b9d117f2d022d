"""Kind `unit_tests`: tests in Python judge a program whose process never holds them."""

from __future__ import annotations

from typing import Any

import pytest

from pmd.services.verifier.kinds import unit_tests
from tests.verifier.conftest import Sandbox

TOTAL = "def total(numbers):\n    return sum(numbers)"
SPEC: dict[str, Any] = {
    "kind": "unit_tests",
    "tests": ["assert total([1, 2]) == 3", "assert total([]) == 0", "assert total((5,)) == 5"],
}
CHECK: dict[str, Any] = {
    "kind": "unit_tests",
    "entry_point": "total",
    "test_code": "def check(candidate):\n"
    "    for n in range(3):\n        assert candidate([n]) == n\n"
    "    assert candidate([]) == 0",
}


@pytest.mark.parametrize("spec", [SPEC, CHECK])
def test_a_right_program_passes_and_a_wrong_one_fails(spec: dict[str, Any], sandbox: Sandbox) -> None:
    assert sandbox.judge(TOTAL, spec).outcome == "passed"
    wrong = sandbox.judge("def total(numbers):\n    return len(numbers)", spec)
    assert (wrong.outcome, wrong.reward) == ("failed", 0.0)
    assert "Input: total([" in wrong.feedback
    assert "assert" not in wrong.feedback, "what is expected"


def test_feedback_shows_the_assertion_only_where_the_spec_allows_it(sandbox: Sandbox) -> None:
    wrong = "def total(numbers):\n    return -1"
    shown = sandbox.judge(wrong, {**SPEC, "feedback": {"expected": True}}).feedback
    assert shown == "Input: total([1, 2])\nOutput: -1\nExpected: assert total([1, 2]) == 3"
    assert (
        sandbox.judge(wrong, {**SPEC, "feedback": {"private_input": False}}).feedback
        == "Wrong answer on a private test."
    )


@pytest.mark.parametrize(
    ("returns", "test"),
    [
        ("(1, [2, (3,)])", "assert f() == (1, [2, (3,)])"),
        ("{1, 2}", "assert f() == {2, 1}"),
        ("{None: 1, (1, 2): {3}}", "assert f() == {None: 1, (1, 2): {3}}"),
        ("b'\\xff\\x00'", "assert f() == b'\\xff\\x00'"),
        ("complex(0, float('nan'))", "import math\nassert math.isnan(f().imag) and f().real == 0"),
        ("float('-inf')", "assert f() == float('-inf')"),
        ("3 ** 40000", "assert f() == 3 ** 40000"),
        ("frozenset({(1,)})", "assert f() == frozenset({(1,)}) and isinstance(f(), frozenset)"),
        ("(n * n for n in range(3))", "assert list(f()) == [0, 1, 4]"),
        ("range(2, 9, 3)", "assert f() == range(2, 9, 3)"),
        ("'\\ud800'", "assert f() == '\\ud800'"),
        ("True", "assert f() is True"),
        ("__import__('collections').Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
        ("__import__('decimal').Decimal('1.10')", "from decimal import Decimal\nassert f() == Decimal('1.1')"),
    ],
)
def test_values_beyond_json_arrive(returns: str, test: str, sandbox: Sandbox) -> None:
    verdict = sandbox.judge(f"def f(): return {returns}", {"kind": "unit_tests", "tests": [test]})
    assert verdict.outcome == "passed", verdict


def test_tests_see_what_the_program_does_to_its_arguments(sandbox: Sandbox) -> None:
    spec = {"kind": "unit_tests", "tests": ["a = [3, 1, 2]\nassert put_in_order(a) is None\nassert a == [1, 2, 3]"]}
    assert sandbox.judge("def put_in_order(a): a.sort()", spec).outcome == "passed"
    assert sandbox.judge("def put_in_order(a): a = sorted(a)", spec).outcome == "failed"


def test_tests_may_expect_an_error(sandbox: Sandbox) -> None:
    test = "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert 'negative' in str(error)"
    spec = {"kind": "unit_tests", "tests": [test]}
    assert sandbox.judge("def f(n):\n    if n < 0: raise ValueError('negative')", spec).outcome == "passed"
    assert sandbox.judge("def f(n): return n", spec).outcome == "failed"
    assert sandbox.judge("def f(n): raise KeyError('negative')", spec).outcome == "failed"


def test_setup_is_there_for_the_program_and_for_the_tests(sandbox: Sandbox) -> None:
    setup = "from typing import List\ndef double(x): return 2 * x\ndef f(x: List[int]): ..."
    spec = {
        "kind": "unit_tests",
        "setup": setup,
        "entry_point": "f",
        "test_code": "def check(g): assert g([4]) == double(4)",
    }
    assert sandbox.judge("def f(x: List[int]): return double(x[0])", spec).outcome == "passed"


def test_an_error_of_the_program_names_its_line(sandbox: Sandbox) -> None:
    feedback = sandbox.judge(
        "def total(numbers):\n    return 1 / len(numbers)", {**SPEC, "tests": SPEC["tests"][1:2]}
    ).feedback
    assert (
        feedback == "ZeroDivisionError: division by zero\n  line 2 in total: return 1 / len(numbers)\nInput: total([])"
    )


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("def total(n):\n    while True: pass", "timeout"),
        ("def total(n):\n    return bytearray(1 << 30)", "memory"),
        ("def total(n):\n    return 'x' * (8 << 20)", "output_limit"),
        ("def totl(n): return sum(n)", "failed"),
        ("def total(n): return lambda: 3", "failed"),
        ("import os\ndef total(n): os._exit(0)", "failed"),
        ("raise SystemExit(0)", "failed"),
    ],
)
def test_a_program_that_gives_no_value_gets_nothing(program: str, outcome: str, sandbox: Sandbox) -> None:
    verdict = sandbox.judge(program, {**SPEC, "limits": {"cpu_s": 0.3, "memory_mb": 128}})
    assert (verdict.outcome, verdict.reward) == (outcome, 0.0), verdict


def test_a_limit_that_the_tests_swallow_still_counts(sandbox: Sandbox) -> None:
    test = "try:\n    f(1)\nexcept BaseException:\n    pass\nassert True"
    spec = {"kind": "unit_tests", "tests": [test], "limits": {"cpu_s": 0.3}}
    assert sandbox.judge("def f(n):\n    while True: pass", spec).outcome == "timeout"


def test_partial_credit_is_the_share_of_tests_that_pass(sandbox: Sandbox) -> None:
    two_of_three = "def total(numbers):\n    return sum(numbers) if numbers else None"
    verdict = sandbox.judge(two_of_three, {**SPEC, "partial": True})
    assert (verdict.outcome, round(verdict.reward, 6)) == ("failed", round(2 / 3, 6))
    assert sandbox.judge(two_of_three, {**CHECK, "partial": True}).reward == 0.5
    assert sandbox.judge(TOTAL, {**CHECK, "partial": True}).reward == 1.0
    slow_once = "def total(numbers):\n    while len(numbers) == 1: pass\n    return sum(numbers)"
    verdict = sandbox.judge(slow_once, {**SPEC, "partial": True, "limits": {"cpu_s": 0.3}})
    assert (verdict.outcome, round(verdict.reward, 6)) == ("timeout", round(2 / 3, 6))


def test_assertions_that_hold_anyway_earn_nothing(sandbox: Sandbox) -> None:
    code = "def check(candidate):\n    assert True, 'reached'\n    assert candidate(1) == 1\n    assert True"
    spec = {"kind": "unit_tests", "entry_point": "f", "test_code": code, "partial": True}
    assert sandbox.judge("def f(n): return 2", spec).reward == 0.0


BROKEN = [
    ({"tests": ["assert total([1]) =="]}, "tests.0 is no Python"),
    ({"tests": ["assert 1 == 1"]}, "call no function"),
    ({"tests": ["assert total(lambda: 1) == 1"]}, "holds a function"),
    ({"tests": ["assert math.isclose(total([1]), 1)"]}, "name 'math' is defined neither"),
    ({"tests": ["x = 1 / 0\nassert total(x)"]}, "before they call the program: ZeroDivisionError"),
    ({"tests": ["while 1: pass\ntotal(3 + 4)"], "limits": {"cpu_s": 0.3}}, "time limit"),
    ({"test_code": "def check(candidate): assert candidate()"}, "name entry_point"),
    ({"test_code": "def check(candidate): pass", "entry_point": "f"}, "never call f"),
    ({"tests": ["assert f()"], "setup": "import nothing_of_that_name"}, "setup can't be run: ModuleNotFoundError"),
]


@pytest.mark.parametrize(("spec", "why"), BROKEN)
def test_tests_that_cannot_be_used_are_refused_and_blame_nobody(
    spec: dict[str, Any], why: str, sandbox: Sandbox
) -> None:
    whole = {"kind": "unit_tests", **spec}
    assert why in str(sandbox.verifier.refusals([whole])[0])
    verdict = sandbox.judge(TOTAL, whole)
    assert verdict.outcome == "infra_error"
    assert why in verdict.error


def test_a_spec_without_tests_is_refused(sandbox: Sandbox) -> None:
    assert "give tests or test_code" in str(sandbox.verifier.refusals([{"kind": "unit_tests"}])[0])


def test_a_value_that_the_tests_stumble_over_is_the_programs_failure(sandbox: Sandbox) -> None:
    spec = {"kind": "unit_tests", "tests": ["assert abs(f(2) - 4) < 1e-6"], "limits": {"cpu_s": 0.3}}
    assert sandbox.judge("def f(n): return None", spec).outcome == "failed"
    spinning = {
        "kind": "unit_tests",
        "tests": ["for _ in range(f(2)): pass\nassert f(2) == 4"],
        "limits": {"cpu_s": 0.3},
    }
    assert sandbox.judge("def f(n): return 10**15", spinning).outcome == "timeout"
    assert sandbox.judge("def f(n): return 4", spinning).outcome == "passed"


FIND = """
import gc, os, sys
def total(numbers):
    seen = [o for o in gc.get_objects() if isinstance(o, (str, dict, list, tuple))]
    frame, texts = sys._getframe(), []
    while frame:
        texts.append(repr(frame.f_locals)); texts.append(repr(sorted(map(str, frame.f_globals.values()))))
        frame = frame.f_back
    hay = " ".join(texts) + repr([o for o in seen if isinstance(o, str)])
    return 'found' if ''.join(['go', 'ld-77']) in hay else 'nothing'
"""


def test_the_process_of_the_program_holds_no_test(sandbox: Sandbox) -> None:
    spec = {"kind": "unit_tests", "tests": ["assert total([1]) == 'gold-7713' or total([1]) == 'nothing'"]}
    verdict = sandbox.judge(FIND, spec)
    assert "found" not in verdict.feedback
    assert verdict.outcome == "passed", verdict


FORGERIES = [
    '{"value": {"passed": 9, "tests": 9, "failures": [], "calls": 1}}.',
    '{"value": {"returned": {"nonsense": 1}, "after": 3}}.',
    '{"value": {"returned": {"dict": [[[1], 2]]}, "after": []}}.',
    '{"value": {"returned": 1}}.',
    '{"value": {"ask": []}}.',
    "[1].",
]


@pytest.mark.parametrize("forged", FORGERIES)
def test_a_forged_report_is_only_an_answer(forged: str, sandbox: Sandbox) -> None:
    program = (
        f"import os\nfrom pmd.services.verifier.sandbox import harness\n"
        f"def total(n):\n    os.write(3, {forged.encode()!r})\n    harness.leave(0)"
    )
    verdict = sandbox.judge(program, SPEC)
    assert (verdict.outcome, verdict.reward) == ("failed", 0.0), verdict


def test_objects_that_equal_everything_do_not(sandbox: Sandbox) -> None:
    equal = "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef total(n): return E(77)"
    assert sandbox.judge(equal, SPEC).outcome == "failed"


def test_a_test_that_asks_something_else_each_time_comes_to_an_end(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_tests, "MAX_CALLS", 20)
    spec = {
        "kind": "unit_tests",
        "tests": ["import time\nwhile True:\n    f(time.perf_counter_ns())"],
        "limits": {"cpu_s": 0.3},
    }
    assert sandbox.judge("def f(n): return n", spec).outcome == "infra_error"
