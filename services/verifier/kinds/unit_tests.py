r"""A Python program, judged by tests that are Python themselves, as HumanEval, MBPP and most such sets have them.

    {"kind": "unit_tests", "tests": ["assert total([1, 2]) == 3", "assert total([]) == 0"]}
    {"kind": "unit_tests", "entry_point": "total", "test_code": "def check(candidate):\n    assert candidate([]) == 0"}

Invariants:
- Tests and what they expect never enter the process of the program (Law 4): it gets one call at a time, as data, and
  what it returns is data. The tests run in a sealed child that holds no code of the program's (`sandbox.driver`).
- A passed verdict is the tests' word, from a process that nothing of the candidate's runs in.
- Tests that can't be used (they are no Python, call nothing, pass a function on, fail before their first call) are
  the spec's trouble: refused where specs are checked, else `infra_error`. Once a value of the program is among the
  tests, whatever ends them is the program's failure: a policy gains nothing by values that tests stumble over.

Each call has a process of its own: a program that counts its calls starts from nothing each time. What it does to a
list, a dict or a set that it is given, the tests see.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, model_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import feedback, report
from pmd.services.verifier.context import Context
from pmd.services.verifier.feedback import Case
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.kinds.code import BRIEF_INPUT, MAX_SOURCE_CHARS, TestLimits, TestVisibility, runnable
from pmd.services.verifier.report import LIMITS, Error, Report
from pmd.services.verifier.sandbox.job import Job, Limits

DRIVER = "from pmd.services.verifier.sandbox.driver import judge"
MAX_CALLS = 2_000
"""Of the program, by all tests together."""
MAX_TABLE_BYTES = 32 << 20
"""Of all that the calls return: the tests are given it again whenever they go on."""


class Spec(Strict):
    """`{"kind": "unit_tests", "tests": ["assert total([1, 2]) == 3"]}`"""

    kind: Literal["unit_tests"] = "unit_tests"
    tests: tuple[str, ...] = Field(default=(), max_length=1000)
    """Pieces of Python with assertions, each a test."""
    test_code: str = Field(default="", max_length=MAX_SOURCE_CHARS)
    """Python that defines `check(candidate)` or functions `test_..`, which are called, or that just asserts."""
    entry_point: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The function under test. None: every function that the tests call and neither they nor `setup` define."""
    setup: str = Field(default="", max_length=MAX_SOURCE_CHARS)
    """Python that runs before the program and, in their own process, before the tests: imports, helpers."""
    limits: TestLimits = TestLimits()
    """Of the program on each call, and of the tests on each of their runs."""
    feedback: TestVisibility = TestVisibility()
    partial: bool = False
    """Run all tests; the reward is the share that passes: of `tests`, and of the assertions of `test_code`."""

    @model_validator(mode="after")
    def _has_tests(self) -> Spec:
        if not self.tests and not self.test_code.strip():
            raise ValueError("there are no tests; give tests or test_code")
        return self


class _Broken(Exception):
    """The tests can't be used; the message says why."""


class _TooMuch(Exception):
    """The program went beyond what all its calls may use together."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class _Run:
    """One program and its tests."""

    def __init__(self, spec: Spec, source: str, context: Context) -> None:
        self.spec, self.source, self.context = spec, source, context
        self.table: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, Error] = {}
        self.size, self.cpu_s, self.left_s = 0, 0.0, spec.limits.total_s

    def result(self) -> dict[str, Any]:
        """What the tests say in the end.

        Raises:
            _Broken, _TooMuch
        """
        while "ask" in (said := _ask_tests(self.spec, self.table, self.context)):
            self.context.check()
            if not self._answer(said["ask"], ahead="ahead" in said):
                raise _Broken("they call the program again and again with something else than before")
        return said

    def _answer(self, questions: list[list[str]], *, ahead: bool) -> bool:
        """Run the program on each question; whether there was one that was not answered before."""
        known = len(self.table)
        for name, arguments in questions:
            key = f"{name} {arguments}"
            if key in self.table:
                continue
            if len(self.table) >= MAX_CALLS:
                raise _Broken(f"they call the program more than {MAX_CALLS} times")
            self.table[key] = self._call(name, arguments, key)
            if "limit" in self.table[key] and not self.spec.partial and ahead:
                break  # the tests end where they come to this call
        return len(self.table) > known

    def _call(self, name: str, arguments: str, key: str) -> dict[str, Any]:
        limits = self.spec.limits.limits().within(self.left_s)
        job = Job(self.source, name, arguments, limits, setup=self.spec.setup, values=True)
        execution = self.context.pool.run(job)
        self.cpu_s += execution.cpu_s
        self.left_s -= execution.spent_s
        self.size += len(execution.report) + len(arguments)
        if self.size > MAX_TABLE_BYTES:
            raise _TooMuch(Outcome.OUTPUT_LIMIT)
        said = report.read(execution)
        if said.limit is not None:
            return {"limit": said.limit.value}
        if isinstance(said.value, dict) and said.value.keys() == {"returned", "after"}:
            return said.value
        error = said.error or Error("SystemExit", "the program ended before it returned a result")
        self.errors[key] = error
        return {"error": [error.name, error.message]}


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """The program; None when the completion has none."""
    return extract.program_of(completion)


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """`passed` when all tests pass, else the outcome of the first that does not."""
    source = runnable(completion)
    if isinstance(source, Verdict):
        return source
    run = _Run(spec, source, context)
    outcome, reward, text = Outcome.PASSED, 1.0, ""
    try:
        said = run.result()
    except _Broken as error:
        return infra_error(f"the tests can't be used: {error}", sandbox_tier=context.tier, cpu_ms=run.cpu_s * 1e3)
    except _TooMuch as error:
        outcome, reward, text = error.outcome, 0.0, f"{LIMITS[error.outcome]} limit exceeded by all calls together."
    else:
        failures = said["failures"]
        if failures:
            outcome = Outcome(failures[0]["limit"] or Outcome.FAILED)
            reward = min(said["passed"] / said["tests"], 1.0) if spec.partial and said["tests"] else 0.0
            text = _feedback(spec, failures, run.errors)
    return Verdict(outcome=outcome, reward=reward, feedback=text, sandbox_tier=context.tier, cpu_ms=run.cpu_s * 1e3)


def prove(spec: Spec, context: Context) -> str | None:
    """What keeps the tests from being used, as far as it shows before a program is there."""
    try:
        _ask_tests(spec, {}, context)
    except _Broken as error:
        return f"the tests can't be used: {error}"
    return None


def _ask_tests(spec: Spec, table: dict[str, dict[str, Any]], context: Context) -> dict[str, Any]:
    """Run the tests with the answers that there are.

    Raises:
        _Broken: they can't be used.
    """
    given = spec.model_dump(include={"tests", "test_code", "entry_point", "setup", "partial"}, mode="json")
    limits = spec.limits.limits()
    roomy = Limits(limits.cpu_s, limits.memory_mb, limits.output_kb + (MAX_TABLE_BYTES >> 10))
    execution = context.scorers.run(Job(DRIVER, "judge", f"{json.dumps(given)}\n{json.dumps(table)}", roomy))
    said = report.read(execution)
    if said.limit is not None and table:
        # The same tests with the first of these values, and nothing else, are the program's doing.
        return {"failures": [{"limit": said.limit.value, "key": None, "line": ""}], "tests": 0, "passed": 0}
    if said.limit is not None:
        raise _Broken(f"they exceed their {LIMITS[said.limit].lower()} limit")
    if not isinstance(said.value, dict) or "broken" in said.value:
        raise _Broken(_why(said))
    return said.value


def _why(said: Report) -> str:
    if isinstance(said.value, dict):
        return str(said.value["broken"])
    return f"{said.error.name}: {said.error.message}" if said.error else "they ended their process"


def _feedback(spec: Spec, failures: list[dict[str, Any]], errors: dict[str, Error]) -> str:
    """The first failure with an error of the program's own, else the first limit, else the wrong results."""
    visible = spec.feedback.private_input
    for failure in failures:
        error = errors.get(" ".join(failure.get("key") or ()))
        if error is not None:
            if not visible:
                return feedback.PRIVATE_ERROR
            return feedback.runtime_error(error.name, error.message, error.frames, _case(spec, failure))
    for failure in failures:
        if failure["limit"]:
            case = _case(spec, failure) if visible and failure.get("call") else None
            return feedback.limit_exceeded(LIMITS[Outcome(failure["limit"])], case)
    if not visible:
        return feedback.PRIVATE_WRONG
    return feedback.wrong_answers([_case(spec, failure) for failure in failures])


def _case(spec: Spec, failure: dict[str, Any]) -> Case:
    expected = f"{failure['line']} {failure.get('error', '')}".strip() if spec.feedback.expected else ""
    return Case(str(failure.get("call", ""))[:BRIEF_INPUT], str(failure.get("output", "")), expected)
