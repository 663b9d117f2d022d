"""Problems of reasoning-gym, judged by its own scorers, which know many right answers and partial ones.

Invariants:
- A scorer runs in a sealed child, like a judge of mathematics; no answer is evaluated there (`workers.gym_worker`).
- The score is the reward; from `pass_at` on it is `passed`.
- A scorer that fails on an answer is asked about the entry's own. Fails it there too, it is the spec's trouble
  (`infra_error`); else it is the answer that can't be read, and worth nothing.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from pydantic import Field, field_validator

from pmd.services.common import extract, values
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import feedback, report
from pmd.services.verifier.context import Context
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.report import LIMITS, Report
from pmd.services.verifier.sandbox.job import Execution
from pmd.services.verifier.visibility import Visibility

MAX_CHARS = 100_000
WORKER = "gym_worker"
NOT_INSTALLED = "reasoning-gym is not installed beside the verifier; install pmd[reasoning-gym]"


class Spec(Strict):
    """`{"kind": "reasoning_gym", "dataset": "gcd", "entry": {"question": .., "answer": "6", "metadata": {..}}}`"""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    dataset: str
    """Name of the data set, whose scorer judges."""
    settings: dict[str, Any] = {}
    """Of the data set, as its entry was generated."""
    entry: dict[str, Any]
    """The entry, of which `answer` is the expected one; values beyond JSON as `services/common/values.py` has them."""
    extract: Literal["tag", "last_line"] = "tag"
    """What of a completion is its answer: the last `<answer>`, without which there is none; or, where there is none,
    the last line that is not empty."""
    pass_at: float = Field(default=1.0, gt=0.0, le=1.0)
    """Score from which on an answer has passed."""
    cpu_s: float = Field(default=3.0, gt=0.0, le=60.0)
    """CPU seconds for the scorer."""
    feedback: Visibility = Visibility()

    @field_validator("entry")
    @classmethod
    def _is_an_entry(cls, entry: dict[str, Any]) -> dict[str, Any]:
        try:
            real = values.decode(entry)
        except (values.NoValue, RecursionError) as error:
            raise ValueError(f"can't be read: {error}") from error
        if not isinstance(real, dict) or not {"answer", "metadata"} <= real.keys():
            raise ValueError("must hold answer and metadata, as reasoning-gym generates them")
        return entry


def answer(spec: Spec, completion: str) -> str | None:
    """The answer; None where there is none."""
    given = extract.answer_of(completion)
    if given is None and spec.extract == "last_line":
        lines = [line for line in extract.without_thinking(completion).splitlines() if line.strip()]
        given = lines[-1].strip() if lines else None
    return given if given and len(given) <= MAX_CHARS else None


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """What the scorer says."""
    given = answer(spec, completion)
    if given is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback="No answer found.")
    if importlib.util.find_spec("reasoning_gym") is None:
        return infra_error(NOT_INSTALLED)
    execution = _ask(spec, given, context)
    said = report.read(execution)
    facts: dict[str, Any] = {"sandbox_tier": context.tier, "cpu_ms": execution.cpu_s * 1e3}
    if not isinstance(said.value, float | int):
        if (wrong := _wrong_with(spec, context)) is not None:
            return infra_error(wrong, **facts)
        if said.limit is not None:
            return Verdict(outcome=said.limit, reward=0.0, feedback=f"{LIMITS[said.limit]} limit exceeded.", **facts)
        return Verdict(outcome=Outcome.FAILED, reward=0.0, feedback="The answer can't be read.", **facts)
    reward = float(said.value)
    passed = reward >= spec.pass_at
    shown = str(spec.entry.get("answer")) if spec.feedback.expected else ""
    text = "" if passed else feedback.wrong_text(given, shown)
    return Verdict(outcome=Outcome.PASSED if passed else Outcome.FAILED, reward=reward, feedback=text, **facts)


def prove(spec: Spec, context: Context) -> str | None:
    """What keeps the scorer from being used."""
    if importlib.util.find_spec("reasoning_gym") is None:
        return NOT_INSTALLED
    return _wrong_with(spec, context)


def _ask(spec: Spec, given: str, context: Context) -> Execution:
    return context.gym.run(WORKER, spec.dataset, spec.settings, spec.entry, given, cpu_s=spec.cpu_s)


def _wrong_with(spec: Spec, context: Context) -> str | None:
    """What goes wrong when the entry's own answer is judged."""
    said: Report = report.read(_ask(spec, str(spec.entry.get("answer")), context))
    if isinstance(said.value, float | int):
        return None
    if said.limit is not None:
        return f"the scorer of {spec.dataset} exceeds its {LIMITS[said.limit].lower()} limit on the entry's own answer"
    cause = f"{said.error.name}: {said.error.message}" if said.error else "it ended its process"
    return f"the scorer of {spec.dataset} can't be used: {cause}"
