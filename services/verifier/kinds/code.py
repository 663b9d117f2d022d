"""A Python program, judged by tests in the sandbox, in the manner of LiveCodeBench.

Invariants:
- Expected outputs stay in this process: what goes to the sandbox is a `Job`, which has no place for one (Law 4).
- A test passes only when the program ended by itself and produced, within its limits, what was expected. A signal, a
  missing or unreadable result is never success; neither is a status other than 0, but in mode `livecodebench` a program
  that reads stdin may end with any, as its grader allows.
- What feedback says of a private test is bounded by the spec's `feedback`; public tests are shown in full.
- Tests run shortest input first, so the first failure is the shortest failing case.
- A checker says of an output what equality can't; it runs in a child of its own (`pmd.services.verifier.checker`).
- Trouble of the sandbox is raised, and so becomes `infra_error`, never a failure of the program (Law 5).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import checker, compare, feedback, report
from pmd.services.verifier.checker import CheckerError
from pmd.services.verifier.compare import Mode
from pmd.services.verifier.context import Context
from pmd.services.verifier.feedback import Case
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.limits import RunLimits
from pmd.services.verifier.report import LIMITS, Error
from pmd.services.verifier.sandbox.job import Execution, Job
from pmd.services.verifier.visibility import Visibility

MAX_SOURCE_CHARS = 200_000
BRIEF_INPUT = 20_000
"""Characters of an input that feedback looks at."""


class Test(Strict):
    """One test. Functional: a JSON argument per input line, and the JSON of the result. Else stdin and stdout."""

    input: str
    output: str | None = None
    """May be missing where a `checker` needs none."""
    public: bool = False
    """The problem's text shows this test, so feedback may show all of it."""


class TestVisibility(Visibility):
    """What feedback may say of private tests."""

    private_input: bool = True
    """Quote the inputs of private tests and what the program made of them. Off: only the way in which it failed, since
    a program can put what it read into its output and its errors."""


class TestLimits(RunLimits):
    """What the program may use on each test, and on all of them."""

    total_s: float = Field(default=300.0, gt=0.0, le=3600.0)
    """Seconds for all tests together: CPU, or waiting that is the program's own doing."""


class Spec(Strict):
    """`{"kind": "code", "fn_name": "solve", "tests": [{"input": "[3, 1]", "output": "[1, 3]"}]}`"""

    kind: Literal["code"] = "code"
    fn_name: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Function (or method of `Solution`) to call; None for programs that read stdin and write stdout."""
    tests: tuple[Test, ...] = Field(min_length=1, max_length=1000)
    compare: Mode = "livecodebench"
    """`livecodebench`: all that its grader does, its imports included. `strict`: equal text, or values of equal
    type. `tokens`: equal words (programs that print). `float`: numbers within `tolerance`."""
    tolerance: float = Field(default=1e-6, ge=0.0, le=1.0)
    """Largest difference in mode `float`, absolute or relative to the expected number."""
    limits: TestLimits = TestLimits()
    feedback: TestVisibility = TestVisibility()
    stop_after: int = Field(default=1, ge=1, le=1000)
    """Failed tests after which the rest is not run."""
    partial: bool = False
    """Run all tests; the reward is the share that passes, or the mean of a checker's scores. `passed` means all."""
    checker: str | None = Field(default=None, min_length=1, max_length=MAX_SOURCE_CHARS)
    """Python that defines `check(input, output, expected)`, which says True or False, a score, or a pair of one and a
    message. Texts for programs that print, values for functions (`input` is then the list of arguments). In place of
    `compare`."""

    @model_validator(mode="after")
    def _outputs_are_there(self) -> Spec:
        missing = [number for number, test in enumerate(self.tests) if test.output is None]
        if missing and self.checker is None:
            raise ValueError(f"test {missing[0]} has no output; give one, or a checker that needs none")
        return self

    @model_validator(mode="after")
    def _tests_are_json(self) -> Spec:
        if self.fn_name is None:
            return self
        if self.compare == "tokens":
            raise ValueError("compare: tokens is for programs that print; remove fn_name or name another mode")
        for number, test in enumerate(self.tests):
            for text in (*(line for line in test.input.split("\n") if line.strip()), test.output):
                try:
                    compare.parse_json("null" if text is None else text)
                except compare.NotJson as error:
                    raise ValueError(f"test {number} of a functional spec is not JSON: {error}") from error
        return self


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one test did not pass."""

    outcome: Outcome
    case: Case
    error: Error | None = None
    hidden: bool = False
    """Feedback must not quote the case."""
    loading: bool = False
    """The limit was met before the function was called, so the case has no part in it."""
    score: float = 0.0
    """What a checker gave it nevertheless."""
    note: str = ""
    """What a checker says about it."""


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """The program; None when the completion has none."""
    return extract.program_of(completion)


def runnable(completion: str) -> str | Verdict:
    """The program of a completion, or the verdict on one that has none or one that is too long."""
    source = extract.program_of(completion)
    if source is not None and len(source) <= MAX_SOURCE_CHARS:
        return source
    text = feedback.NO_PROGRAM if source is None else feedback.TOO_LONG
    return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback=text)


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """`passed` when every test passes, else the outcome of the shortest test that does not."""
    source = runnable(completion)
    if isinstance(source, Verdict):
        return source
    limits = spec.limits.limits()
    failures: list[_Failure] = []
    cpu_s = 0.0
    left_s = spec.limits.total_s
    status = 0
    for test in sorted(spec.tests, key=lambda t: len(t.input)):
        context.check()
        prelude = spec.compare == "livecodebench"
        as_json = json.dumps(test.output or "")  # as a result is reported: no character takes more bytes in any output
        allowed = limits.within(left_s).for_output(len(as_json))
        execution = context.pool.run(Job(source, spec.fn_name, test.input, allowed, prelude=prelude))
        cpu_s += execution.cpu_s
        left_s -= execution.spent_s
        hidden = not (test.public or spec.feedback.private_input)
        try:
            failure = _judge(spec, test, execution, context, hidden=hidden)
        except CheckerError as error:
            return infra_error(f"the checker {error}", sandbox_tier=context.tier, cpu_ms=cpu_s * 1e3)
        if failure is not None:
            failures.append(failure)
            if len(failures) == spec.stop_after and not spec.partial:
                break
        elif execution.code != 0 and not hidden:
            status = execution.code
    return Verdict(
        outcome=failures[0].outcome if failures else Outcome.PASSED,
        reward=_reward(spec, failures),
        feedback=_feedback(failures) if failures else feedback.ended_with(status) if status else "",
        sandbox_tier=context.tier,
        cpu_ms=cpu_s * 1e3,
    )


def prove(spec: Spec, context: Context) -> str | None:
    """What keeps the checker from being one."""
    wrong = spec.checker and checker.prove(spec.checker, spec.limits.limits(), context)
    return f"the checker {wrong}" if wrong else None


def _reward(spec: Spec, failures: list[_Failure]) -> float:
    if not failures:
        return 1.0
    lost = sum(1.0 - failure.score for failure in failures)
    return max(1.0 - lost / len(spec.tests), 0.0) if spec.partial else 0.0


def _judge(spec: Spec, test: Test, execution: Execution, context: Context, *, hidden: bool) -> _Failure | None:
    """None when the test passed.

    Raises:
        CheckerError: the checker can't say.
    """
    case = Case(input=test.input[:BRIEF_INPUT])
    said = report.read(execution)
    if said.limit is not None:
        return _Failure(said.limit, case, hidden=hidden, loading=said.loading)
    error = said.error
    any_status = spec.compare == "livecodebench" and spec.fn_name is None
    if error is None and execution.code != 0 and not any_status:
        error = Error("SystemExit", feedback.ended_with(execution.code))
    if error is None and spec.fn_name is not None and not said.returned:
        error = Error("SystemExit", "the program ended before it returned a result")
    if error is not None:
        return _Failure(Outcome.FAILED, case, error=error, hidden=hidden)
    expected = test.output
    if spec.fn_name is None:
        output = execution.stdout.decode("utf-8", "surrogateescape")
    else:
        output = json.dumps(said.value, ensure_ascii=False, default=bytes.decode)
    score, note = 0.0, ""
    if spec.checker is not None:
        score, note = checker.check(spec.checker, _checked(spec, test, output), spec.limits.limits(), context)
        right = score == 1.0
    elif expected is None:
        raise AssertionError("a spec without outputs has a checker")
    elif spec.fn_name is None:
        right = compare.equal_output(spec.compare, output, expected, spec.tolerance)
    else:
        right = compare.equal_values(spec.compare, said.value, compare.parse_json(expected), spec.tolerance)
    if right:
        return None
    shown = (expected or "") if test.public or spec.feedback.expected else ""
    quoted = Case(case.input, output[:BRIEF_INPUT], shown[:BRIEF_INPUT])
    return _Failure(Outcome.FAILED, quoted, hidden=hidden, score=score, note=note)


def _checked(spec: Spec, test: Test, output: str) -> tuple[str, str, str]:
    """Input, output and expected output as a checker gets them, each as JSON: texts, or the values of a function."""
    if spec.fn_name is None:
        return json.dumps(test.input), json.dumps(output), json.dumps(test.output)
    arguments = ", ".join(line for line in test.input.split("\n") if line.strip())
    return f"[{arguments}]", output, "null" if test.output is None else test.output


def _feedback(failures: list[_Failure]) -> str:
    """The first runtime error, else the first exceeded limit, else the shortest wrong cases; quotable ones first."""
    ordered = sorted(failures, key=lambda failure: failure.hidden)
    for failure in ordered:
        if failure.error is not None:
            if failure.hidden:
                return feedback.PRIVATE_ERROR
            error = failure.error
            return feedback.runtime_error(error.name, error.message, error.frames, failure.case)
    for failure in ordered:
        if failure.outcome in LIMITS:
            what = LIMITS[failure.outcome]
            if failure.loading:
                return feedback.limit_exceeded_while_loading(what)
            return feedback.limit_exceeded(what, None if failure.hidden else failure.case)
    wrong = [failure for failure in failures if not failure.hidden]
    if not wrong:
        return feedback.PRIVATE_WRONG
    shortest = min(wrong, key=lambda failure: len(failure.case.input))
    text = feedback.wrong_answers([failure.case for failure in wrong])
    return feedback.note(f"{shortest.note}\n{text}") if shortest.note else text
