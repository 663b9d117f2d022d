"""The user's own verifier: a Python function, run in the sandbox like a program.

    def verify(completion: str, reference) -> float | bool | None | {"reward": float, "feedback": str}

`completion` is without its thinking; `reference` is any JSON of the spec. A finite number is clamped to [0, 1] and is
the reward; 1 is `passed`, less is `failed`; None is `format`.

Invariants:
- A function that raises, exceeds its limits, or returns something else is trouble of the spec, not of the completion:
  `infra_error`, with its cause, masked from the loss (Law 5). A zero would teach that a perhaps right answer is wrong.
  The price: a policy could learn to provoke it rather than be wrong. It gains nothing that way, and the count of
  `infra_error` shows it; a verifier that returns None or 0 for what it can't read leaves nothing to provoke.
- The reference is in the process that the function runs in, and so must never be beside untrusted code: a verifier
  that executes the completion gives it away. Programs are judged by kind `code`.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import checker, feedback, report
from pmd.services.verifier.context import Context
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.limits import RunLimits
from pmd.services.verifier.report import LIMITS, Report
from pmd.services.verifier.sandbox.job import Job

FUNCTION = "verify"


class Spec(Strict):
    """`{"kind": "python", "source": "def verify(completion, reference):\\n    return reference in completion"}`"""

    kind: Literal["python"] = "python"
    source: str = Field(min_length=1, max_length=200_000)
    """Python that defines `verify(completion, reference)`; besides the standard library it may import what
    `PMD_SANDBOX_LIBRARIES` and `PMD_SANDBOX_GRADER_LIBRARIES` name."""
    reference: Any = None
    """JSON that the function gets as its second argument."""
    limits: RunLimits = RunLimits()


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """All of the completion but its thinking."""
    return extract.without_thinking(completion)


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """What the function says; `infra_error` when it says nothing that can be understood."""
    arguments = f"{json.dumps(answer(spec, completion))}\n{json.dumps(spec.reference)}"
    execution = context.scorers.run(Job(spec.source, FUNCTION, arguments, spec.limits.limits()))
    said = report.read(execution)
    facts: dict[str, Any] = {"sandbox_tier": context.tier, "cpu_ms": execution.cpu_s * 1e3}
    try:
        reward, text = _understand(said)
    except ValueError as error:
        return infra_error(f"the function {FUNCTION} {error}", **facts)
    if reward is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback=text, **facts)
    outcome = Outcome.PASSED if reward == 1.0 else Outcome.FAILED
    return Verdict(outcome=outcome, reward=reward, feedback=text, **facts)


def prove(spec: Spec, context: Context) -> str | None:
    """What keeps the source from being a function `verify`."""
    wrong = checker.prove(spec.source, spec.limits.limits(), context, FUNCTION)
    named = f"{wrong}(completion, reference)" if wrong and wrong.endswith(FUNCTION) else wrong
    return f"source {named}" if named else None


def _understand(said: Report) -> tuple[float | None, str]:
    """Reward (None: no answer found) and feedback.

    Raises:
        ValueError: there is no such thing; the message goes on after "the function verify ".
    """
    if said.limit is not None:
        raise ValueError(f"exceeded its {LIMITS[said.limit].lower()} limit{' while loading' if said.loading else ''}")
    if said.error is not None:
        raise ValueError(f"raised {said.error.name}: {said.error.message}{checker.line_of(said)}")
    if not said.returned:
        raise ValueError("ended its process")
    value, text = said.value, ""
    if isinstance(value, dict) and value.keys() <= {"reward", "feedback"} and "reward" in value:
        value, text = value["reward"], value.get("feedback", "")
    if not isinstance(value, int | float | None) or not isinstance(text, str):
        raise ValueError('must return a number, a bool, None, or {"reward": .., "feedback": text}')
    return None if value is None else float(min(max(value, 0), 1)), feedback.note(text)
