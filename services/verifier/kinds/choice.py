r"""Multiple choice, as SDPO judges SciKnowEval: the last answer block holds one of the labels, and nothing else.

Brackets, full stops, colons, quotes, asterisks and what else just dresses the label (`(B).`, `$B$`, `\text{B}`,
`<b>B</b>`) do not matter, and compatibility forms of Unicode are their plain letters; letters of other scripts that
look alike are not. Two labels, a label in a sentence, or a label with its option's text are format errors: what is
ambiguous fails.

Feedback is empty: a wrong letter teaches nothing that the outcome does not, and naming the right one would leak it.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydantic import Field, model_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier.context import Context

MAX_CHARS = 200
MAX_DRESS = 6
"""How deep a label may lie in what dresses it."""
AROUND = " \t\n()[]{}.:*\"'`"
"""What may stand around a label."""


class Spec(Strict):
    """`{"kind": "choice", "answer": "B", "labels": ["A", "B", "C", "D"]}`"""

    kind: Literal["choice"] = "choice"
    answer: str
    """Label of the right option."""
    labels: tuple[str, ...] = Field(default=("A", "B", "C", "D"), min_length=2)
    """All options; an answer that is none of them is a format error."""

    @model_validator(mode="after")
    def _answer_is_a_label(self) -> Spec:
        if len({unicodedata.normalize("NFKC", label) for label in self.labels}) < len(self.labels):
            raise ValueError(f"two of the labels {list(self.labels)} are the same letters")
        if self.answer not in self.labels:
            raise ValueError(f"answer {self.answer!r} is not one of labels {list(self.labels)}")
        return self


def answer(spec: Spec, completion: str) -> str | None:
    """The chosen label; None when there is none, or more than one."""
    given = extract.answer_of(completion) or ""
    if len(given) > MAX_CHARS:
        return None
    plain = unicodedata.normalize("NFKC", given).strip()
    by_form = {unicodedata.normalize("NFKC", label): label for label in spec.labels}
    for _ in range(MAX_DRESS):
        if plain in by_form:
            return by_form[plain]
        boxes = extract.boxes_of(plain)
        boxed = len(boxes) == 1 and plain.startswith("\\boxed") and plain.endswith("}")
        inner = boxes[0].strip() if boxed else extract.undressed(plain)
        plain = plain.strip(AROUND) if inner == plain else inner
    return by_form.get(plain)


def verify(spec: Spec, completion: str, context: Context) -> Verdict:  # noqa: ARG001 -- the signature of all kinds
    """`passed` for the right label, `failed` for another one, `format` for anything else."""
    chosen = answer(spec, completion)
    if chosen is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0)
    if chosen == spec.answer:
        return Verdict(outcome=Outcome.PASSED, reward=1.0)
    return Verdict(outcome=Outcome.FAILED, reward=0.0)
