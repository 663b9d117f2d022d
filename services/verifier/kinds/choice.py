"""Multiple choice, by the rules of SciKnowEval: the last answer block holds one of the labels, and nothing else.

Feedback is empty: a wrong letter teaches nothing that the outcome does not, and naming the right one would leak it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from services.common.strict import Strict
from services.common.wire import Outcome, Verdict
from services.verifier import extract
from services.verifier.context import Context


class Spec(Strict):
    """`{"kind": "choice", "answer": "B", "labels": ["A", "B", "C", "D"]}`"""

    kind: Literal["choice"] = "choice"
    answer: str
    """Label of the right option."""
    labels: tuple[str, ...] = Field(default=("A", "B", "C", "D"), min_length=2)
    """All options; an answer that is none of them is a format error."""

    @model_validator(mode="after")
    def _answer_is_a_label(self) -> Spec:
        if self.answer not in self.labels:
            raise ValueError(f"answer {self.answer!r} is not one of labels {list(self.labels)}")
        return self


def answer(spec: Spec, completion: str) -> str | None:
    """The chosen label; None when there is none, or more than one."""
    chosen = extract.answer_of(completion)
    return chosen if chosen in spec.labels else None


def grade(spec: Spec, completion: str, context: Context) -> Verdict:  # noqa: ARG001 -- the signature of all kinds
    """`passed` for the right label, `failed` for another one, `format` for anything else."""
    chosen = answer(spec, completion)
    if chosen is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0)
    if chosen == spec.answer:
        return Verdict(outcome=Outcome.PASSED, reward=1.0)
    return Verdict(outcome=Outcome.FAILED, reward=0.0)
