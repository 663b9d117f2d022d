"""The `code` kind: which tests feedback may quote, what it says first, and modes of comparison end to end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.verifier.conftest import Sandbox

PUBLIC = {"input": "[3, 1]", "output": "[1, 3]", "public": True}
PRIVATE = {"input": "[7]", "output": "[7, 7]"}
ECHO = "def solve(a): return a"
RAISE = "def solve(a):\n    raise ValueError(a)"


def spec(*tests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "code", "fn_name": "solve", "tests": list(tests), "stop_after": 9, "limits": {"cpu_s": 0.3}, **more}


HIDDEN = {"feedback": {"private_input": False}}
FEEDBACK = {
    "a public test is shown in full": (ECHO, spec(PUBLIC), "Input: [3, 1]\nOutput: [3, 1]\nExpected: [1, 3]"),
    "a private expectation is not shown": (ECHO, spec(PRIVATE), "Input: [7]\nOutput: [7]"),
    "unless the spec says so": (
        ECHO,
        spec(PRIVATE, feedback={"expected": True}),
        "Input: [7]\nOutput: [7]\nExpected: [7, 7]",
    ),
    "a private input is not shown when the spec says so": (
        ECHO,
        spec(PRIVATE, **HIDDEN),
        "Wrong answer on a private test.",
    ),
    "the public one is what is told": (
        ECHO,
        spec(PRIVATE, PUBLIC, **HIDDEN),
        "Input: [3, 1]\nOutput: [3, 1]\nExpected: [1, 3]",
    ),
    "an error can't carry a private input out": (RAISE, spec(PRIVATE, **HIDDEN), "Runtime error on a private test."),
    "an error of a public test is told": (
        RAISE,
        spec(PRIVATE, PUBLIC, **HIDDEN),
        "ValueError: [3, 1]\n  line 2 in solve: raise ValueError(a)\nInput: [3, 1]",
    ),
    "neither can a time limit": (
        "def solve(a):\n    while True: pass",
        spec(PRIVATE, **HIDDEN),
        "Time limit exceeded on a private test.",
    ),
    "a time limit comes with its input": (
        "def solve(a):\n    while True: pass",
        spec(PRIVATE),
        "Time limit exceeded.\nInput: [7]",
    ),
    "a time limit before the function is called": (
        "while True: pass\ndef solve(a): pass",
        spec(PRIVATE),
        "Time limit exceeded while loading the program.",
    ),
    "an error is told before a wrong answer": (
        "def solve(a):\n    return a if len(a) == 1 else 1 / 0",
        spec(PRIVATE, PUBLIC),
        "ZeroDivisionError: division by zero\n  line 2 in solve: return a if len(a) == 1 else 1 / 0\nInput: [3, 1]",
    ),
    "frames of the library are left out": (
        "import json\ndef solve(a):\n    return json.loads('{')",
        spec(PRIVATE),
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"
        "  line 3 in solve: return json.loads('{')\nInput: [7]",
    ),
    "the prelude does not shift lines": (
        "\ndef solve(a):\n    return nothing",
        spec(PRIVATE),
        "NameError: name 'nothing' is not defined\n  line 3 in solve: return nothing\nInput: [7]",
    ),
}


@pytest.mark.parametrize("name", FEEDBACK)
def test_feedback(name: str, sandbox: Sandbox) -> None:
    program, given, said = FEEDBACK[name]
    verdicts = [sandbox.judge(program, given) for _ in range(2)]
    assert [v.feedback for v in verdicts] == [said, said]
    assert all(v.reward == 0.0 for v in verdicts)


def test_the_prelude_is_livecodebenchs_alone(sandbox: Sandbox) -> None:
    program = "def solve(a): return sorted(Counter(a))"
    test = {"input": "[2, 1, 2]", "output": "[1, 2]"}
    assert sandbox.judge(program, spec(test)).outcome == "passed"
    assert "NameError" in sandbox.judge(program, spec(test, compare="strict")).feedback


MODES = {
    ("livecodebench", "2.0"): "passed",
    ("strict", "2.0"): "failed",
    ("strict", "2"): "passed",
    ("tokens", "\n2"): "passed",
    ("float", "2.0000001"): "passed",
    ("float", "2.1"): "failed",
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_comparison(mode: tuple[str, str], sandbox: Sandbox) -> None:
    compare, printed = mode
    given = {"kind": "code", "tests": [{"input": "", "output": "2\n"}], "compare": compare}
    assert sandbox.judge(f"print({printed!r})", given).outcome == MODES[mode]


RETURNED = {
    # program's value, expected JSON: strict, livecodebench
    ("(1, (2, 3))", "[1, [2, 3]]"): ("passed", "failed"),
    ("[(1, 2)]", "[[1, 2]]"): ("passed", "failed"),
    ("{3, 1, 2}", "[1, 2, 3]"): ("passed", "failed"),
    ("frozenset('ba')", '["a", "b"]'): ("passed", "failed"),
    ("{1: 'a'}", '{"1": "a"}'): ("passed", "failed"),
    ("{1, 'a'}", "[1]"): ("failed", "failed"),
    ("(1, 2)", "[1, 2]"): ("passed", "passed"),
    ("__file__", '"/solution.py"'): ("passed", "passed"),
}


@pytest.mark.parametrize("returned", RETURNED)
def test_what_a_function_may_return(returned: tuple[str, str], sandbox: Sandbox) -> None:
    value, output = returned
    for compare, outcome in zip(("strict", "livecodebench"), RETURNED[returned], strict=True):
        given = spec({"input": "1", "output": output}, compare=compare)
        assert sandbox.judge(f"def solve(a): return {value}", given).outcome == outcome, compare


def test_all_tests_must_pass(sandbox: Sandbox) -> None:
    assert sandbox.judge("def solve(a): return [1, 3]", spec(PUBLIC, PRIVATE)).outcome == "failed"
    passed = sandbox.judge("def solve(a): return [min(a), max(a)]", spec(PUBLIC, PRIVATE))
    assert (passed.outcome, passed.feedback) == ("passed", ""), "there is nothing to tell"


def test_a_result_may_be_as_long_as_the_expected_one(sandbox: Sandbox) -> None:
    given = spec({"input": "[1]", "output": str(list(range(300_000)))}, limits={"cpu_s": 3})
    assert sandbox.judge("def solve(a): return list(range(300_000))", given).outcome == "passed"


@pytest.mark.parametrize("text", ["漢", "\U0001f600", '"'])
def test_length_is_meant_in_bytes(text: str, sandbox: Sandbox) -> None:
    limits = {"cpu_s": 3, "output_kb": 1}
    returned = spec({"input": "1", "output": json.dumps(text * 9000, ensure_ascii=False)}, limits=limits)
    assert sandbox.judge(f"def solve(a): return {text!r} * 9000", returned).outcome == "passed"
    printed = {"kind": "code", "tests": [{"input": "", "output": text * 9000}], "limits": limits}
    assert sandbox.judge(f"print({text!r} * 9000)", printed).outcome == "passed"


def test_a_right_program_can_not_carry_a_private_input_out(sandbox: Sandbox) -> None:
    program = "import sys\nprint(3)\nsys.exit(ord(input()[0]))"
    test = {"input": "S", "output": "3"}
    shown = sandbox.judge(program, {"kind": "code", "tests": [test]})
    assert (shown.outcome, shown.feedback) == ("passed", "the program ended with status 83")
    hidden = sandbox.judge(program, {"kind": "code", "tests": [test], **HIDDEN})
    assert (hidden.outcome, hidden.feedback) == ("passed", "")
    public = sandbox.judge(program, {"kind": "code", "tests": [{**test, "public": True}], **HIDDEN})
    assert public.feedback == "the program ended with status 83"
