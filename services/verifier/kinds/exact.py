r"""A text answer that must equal the expected one: in the last answer block, or else the whole completion.

Both sides are normalised: Unicode NFC, runs of white space to one space, none at the ends. What only dresses the answer
as a whole (`**42 km**`, `\text{42 km}`) may be there or not.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydantic import Field, field_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import feedback
from pmd.services.verifier.context import Context
from pmd.services.verifier.visibility import Visibility

MAX_CHARS = 4000
"""Longest expected answer. Unicode normalisation takes quadratic time on hostile text, so longer text is not put
through it."""


class Spec(Strict):
    """`{"kind": "exact", "answer": "42 km"}`"""

    kind: Literal["exact"] = "exact"
    answer: str = Field(min_length=1, max_length=MAX_CHARS)
    ignore_case: bool = False
    feedback: Visibility = Visibility()

    @field_validator("answer")
    @classmethod
    def _is_a_text(cls, answer: str) -> str:
        if not answer.strip():
            raise ValueError("must not be white space alone: no answer equals it")
        return answer


def answer(spec: Spec, completion: str) -> str | None:
    """The normalised answer; None when it is empty."""
    return _normal(spec, extract.text_answer(completion)) or None


def verify(spec: Spec, completion: str, context: Context) -> Verdict:  # noqa: ARG001 -- the signature of all kinds
    """`passed` for an equal text, `format` for an empty one, `failed` otherwise."""
    given = answer(spec, completion)
    if given is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback="No answer found.")
    if _normal(spec, spec.answer) in (given, _normal(spec, extract.undressed(extract.text_answer(completion)))):
        return Verdict(outcome=Outcome.PASSED, reward=1.0)
    shown = spec.answer if spec.feedback.expected else ""
    return Verdict(outcome=Outcome.FAILED, reward=0.0, feedback=feedback.wrong_text(given, shown))


def _normal(spec: Spec, text: str) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_CHARS:
        return text[: 2 * MAX_CHARS]  # longer than every expected answer
    text = unicodedata.normalize("NFC", text)
    return text.casefold() if spec.ignore_case else text
