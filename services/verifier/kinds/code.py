"""A Python program, judged by tests in the sandbox, in the manner of LiveCodeBench.

Invariants:
- Expected outputs stay in this process: what goes to the sandbox is a `Job`, which has no place for one (Law 4).
- A test passes only when the program ended by itself and produced, within its limits, what was expected. A signal, a
  missing or unreadable result is never success; neither is a status other than 0, but in mode `livecodebench` a program
  that reads stdin may end with any, as its grader allows.
- What feedback says of a private test is bounded by the spec's `feedback`; public tests are shown in full.
- Tests run shortest input first, so the first failure is the shortest failing case.
- Trouble of the sandbox is `infra_error`, never a failure of the program (Law 5).
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, model_validator

from services.common.strict import Strict
from services.common.wire import Outcome, Verdict
from services.verifier import compare, extract, feedback
from services.verifier.compare import Mode
from services.verifier.context import Context
from services.verifier.feedback import Case, Frame
from services.verifier.sandbox.job import End, Execution, Job, Limits, SandboxError
from services.verifier.trouble import infra_error
from services.verifier.visibility import Visibility

MAX_SOURCE_CHARS = 200_000
BRIEF_INPUT = 20_000
"""Characters of an input that feedback looks at."""


class Test(Strict):
    """One test. Functional: a JSON argument per input line, and the JSON of the result. Else stdin and stdout."""

    input: str
    output: str
    public: bool = False
    """The problem's text shows this test, so feedback may show all of it."""


class TestLimits(Strict):
    """What the program may use on each test."""

    cpu_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """CPU seconds. The wall limit is max(3 cpu_s, cpu_s + 2)."""
    memory_mb: int = Field(default=512, ge=128, le=8192)
    """Address space, interpreter included."""
    output_kb: int = Field(default=1024, ge=1, le=16384)
    """Of stdout, of stderr and of the result, each."""


class TestVisibility(Visibility):
    """What feedback may say of private tests."""

    private_input: bool = True
    """Quote the inputs of private tests and what the program made of them. Off: only the way in which it failed, since
    a program can put what it read into its output and its errors."""


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

    @model_validator(mode="after")
    def _tests_are_json(self) -> Spec:
        if self.fn_name is None:
            return self
        if self.compare == "tokens":
            raise ValueError("compare: tokens is for programs that print; remove fn_name or name another mode")
        for number, test in enumerate(self.tests):
            for text in (*(line for line in test.input.split("\n") if line.strip()), test.output):
                try:
                    compare.parse_json(text)
                except compare.NotJson as error:
                    raise ValueError(f"test {number} of a functional spec is not JSON: {error}") from error
        return self


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one test did not pass."""

    outcome: Outcome
    case: Case
    error: tuple[str, str, tuple[Frame, ...]] | None = None
    """Type, message and the program's own frames of a runtime error."""
    limit: str = ""
    """The limit that was exceeded: Time, Memory or Output."""
    hidden: bool = False
    """Feedback must not quote the case."""


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """The program; None when the completion has none."""
    return extract.program_of(completion)


def grade(spec: Spec, completion: str, context: Context) -> Verdict:
    """`passed` when every test passes, else the outcome of the shortest test that does not."""
    source = answer(spec, completion)
    if source is None or len(source) > MAX_SOURCE_CHARS:
        text = feedback.NO_PROGRAM if source is None else feedback.TOO_LONG
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback=text)
    limits = Limits(spec.limits.cpu_s, spec.limits.memory_mb, spec.limits.output_kb)
    failures: list[_Failure] = []
    cpu_s = 0.0
    status = 0
    for test in sorted(spec.tests, key=lambda t: len(t.input)):
        context.check()
        try:
            job = Job(source, spec.fn_name, test.input, limits, prelude=spec.compare == "livecodebench")
            execution = context.pool.run(job)
        except SandboxError as error:
            context.check()  # a sandbox that closes because the service stops is no verdict at all
            return infra_error(str(error), tier=context.tier, cpu_ms=cpu_s * 1e3)
        cpu_s += execution.cpu_s
        failure = _judge(spec, test, execution)
        if failure is not None:
            failures.append(failure)
            if len(failures) == spec.stop_after:
                break
        elif execution.code != 0:
            status = execution.code
    return Verdict(
        outcome=failures[0].outcome if failures else Outcome.PASSED,
        reward=0.0 if failures else 1.0,
        feedback=_feedback(failures) if failures or not status else feedback.ended_with(status),
        sandbox_tier=context.tier,
        cpu_ms=cpu_s * 1e3,
    )


def _judge(spec: Spec, test: Test, execution: Execution) -> _Failure | None:
    """None when the test passed."""
    hidden = not (test.public or spec.feedback.private_input)
    case = Case(input=test.input[:BRIEF_INPUT])
    if execution.end is not End.EXIT:
        return replace(_stopped(execution, case), hidden=hidden)
    report = _report(execution.report)
    error = _error(report)
    any_status = spec.compare == "livecodebench" and spec.fn_name is None
    if error is None and execution.code != 0 and not any_status:
        error = ("SystemExit", feedback.ended_with(execution.code), ())
    if error is None and spec.fn_name is not None and "value" not in report:
        error = ("SystemExit", "the program ended before it returned a result", ())
    if error is not None:
        if error[0] == "MemoryError":
            return _Failure(Outcome.MEMORY, case, limit="Memory", hidden=hidden)
        return _Failure(Outcome.FAILED, case, error=error, hidden=hidden)
    if spec.fn_name is None:
        output = execution.stdout.decode("utf-8", "surrogateescape")
        right = compare.equal_output(spec.compare, output, test.output, spec.tolerance)
    else:
        output = json.dumps(report["value"], ensure_ascii=False, default=bytes.decode)
        expected = compare.parse_json(test.output)
        right = compare.equal_values(spec.compare, report["value"], expected, spec.tolerance)
    if right:
        return None
    shown = test.output if test.public or spec.feedback.expected else ""
    return _Failure(Outcome.FAILED, Case(case.input, output[:BRIEF_INPUT], shown[:BRIEF_INPUT]), hidden=hidden)


def _stopped(execution: Execution, case: Case) -> _Failure:
    """A program that was ended, by a limit or by a signal."""
    match execution.end:
        case End.OUTPUT:
            return _Failure(Outcome.OUTPUT_LIMIT, case, limit="Output")
        case End.CPU | End.WALL:
            return _Failure(Outcome.TIMEOUT, case, limit="Time")
        case _ if execution.code == signal.SIGKILL:
            return _Failure(Outcome.MEMORY, case, limit="Memory")
        case _:
            name = signal.strsignal(execution.code) or f"signal {execution.code}"
            return _Failure(Outcome.FAILED, case, error=("Crash", name, ()))


def _report(data: bytes) -> dict[str, Any]:
    """The child's report; empty when there is none, or none that can be read."""
    try:
        report = compare.parse_json(data)
    except compare.NotJson:
        return {}
    return report if isinstance(report, dict) else {}


def _error(report: dict[str, Any]) -> tuple[str, str, tuple[Frame, ...]] | None:
    """The runtime error that a report tells of. The report may be forged, so every part of it is checked."""
    error = report.get("error")
    if not isinstance(error, dict):
        return None
    name, message, frames = error.get("type"), error.get("message"), error.get("frames")
    if not (isinstance(name, str) and isinstance(message, str) and isinstance(frames, list)):
        return None
    checked = [
        Frame(f[0], str(f[1])[:80], str(f[2])[:160])
        for f in frames[:3]
        if isinstance(f, list) and len(f) == 3 and isinstance(f[0], int)
    ]
    return name[:80], message[:500], tuple(checked)


def _feedback(failures: list[_Failure]) -> str:
    """The first runtime error, else the first exceeded limit, else the shortest wrong cases; quotable ones first."""
    ordered = sorted(failures, key=lambda failure: failure.hidden)
    for failure in ordered:
        if failure.error is not None:
            return feedback.PRIVATE_ERROR if failure.hidden else feedback.runtime_error(*failure.error, failure.case)
    for failure in ordered:
        if failure.limit:
            return feedback.limit_exceeded(failure.limit, None if failure.hidden else failure.case)
    cases = [failure.case for failure in failures if not failure.hidden]
    return feedback.wrong_answers(cases) if cases else feedback.PRIVATE_WRONG if failures else ""
