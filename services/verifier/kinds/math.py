r"""A mathematical answer that must equal the expected one, by math-verify: `0.5`, `\frac{1}{2}` and `1/2` are one.

The answer is what the last `<answer>` holds, else the last `\boxed{..}`; an answer block may hold one box, whose
content then counts. Two boxes in one answer block, one inside another, or braces that don't match are ambiguous: a
format error. Dollars around it and a full stop behind it do not matter. It counts as a whole: a list `1, 2` is the set
of both, and `4 \iff 5` is no number, so naming several candidates equals none of them. What stands right of the last
`=` counts: `x = 5` is 5.

Known limits: sympy evaluates, so an answer that repeats the question (`2^{10}` for 1024) is equal to its result; units
are not compared (a unit is words at the end without a digit, a comma, or an `or`, `and`, `if`, `not`); a whole number
and as many percent are equal.

Invariants:
- Parsing and comparing happen in a sealed child that can be killed: no expression hangs or crashes the service.
- An expected answer that can't be parsed, or not compared with 1 within the limits, is the spec's trouble
  (`infra_error`); a given one that can't be parsed is `format`, and one that exceeds the limits exceeds them.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import feedback, report
from pmd.services.verifier.context import Context
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.report import LIMITS
from pmd.services.verifier.visibility import Visibility

MAX_CHARS = 2000
_BOX = re.compile(r"\\(boxed|fbox)")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
WORKER = "math_worker"


class Spec(Strict):
    r"""`{"kind": "math", "answer": "\\frac{1}{2}"}`"""

    kind: Literal["math"] = "math"
    answer: str = Field(min_length=1, max_length=MAX_CHARS)
    """LaTeX or a plain expression, without `$` and without box."""
    cpu_s: float = Field(default=3.0, gt=0.0, le=60.0)
    """CPU seconds for parsing and comparing."""
    feedback: Visibility = Visibility()

    @field_validator("answer")
    @classmethod
    def _can_be_met(cls, answer: str) -> str:
        trimmed = _trimmed(answer)
        if not any(character.isalnum() or character in "\\{[(" for character in trimmed):
            raise ValueError("holds no number, symbol or word: no answer equals it")
        if not _balanced(_ESCAPED.sub("", trimmed)):  # `\left\{ x = 1 \right.` is a system
            raise ValueError("has braces that don't match: no answer equals it")
        if _BOX.search(trimmed):
            raise ValueError("holds a box; give what is inside it")
        return answer


def answer(spec: Spec, completion: str) -> str | None:
    """The expression that the completion answers with; None when there is none, or no telling which."""
    block = extract.answer_of(completion)
    boxes = extract.boxes_of(extract.without_thinking(completion) if block is None else block)
    given = _trimmed((boxes[-1] if block is None or len(boxes) == 1 else "") if boxes else block or "")
    # A box that is left (a second one inside, one never closed, `\fbox`), or a brace that ends what it didn't begin,
    # would choose for the library what counts.
    clear = not _BOX.search(given) and (_balanced(given) or given == _trimmed(spec.answer))
    return given if 0 < len(given) <= MAX_CHARS and clear else None


def _trimmed(text: str) -> str:
    return _without_stop(extract.undressed(_without_stop(text).strip("$"))).strip()


def _without_stop(text: str) -> str:
    text = text.strip()
    return text if text.endswith("..") else text.removesuffix(".")


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def verify(spec: Spec, completion: str, context: Context) -> Verdict:
    """`passed` for an equal answer, `format` for none, or one that is no mathematics, `failed` otherwise."""
    given = answer(spec, completion)
    if given is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback="No single answer found.")
    expected = _trimmed(spec.answer)
    if given == expected:  # spares the library's work on most right answers
        return Verdict(outcome=Outcome.PASSED, reward=1.0)
    execution = context.library.run(WORKER, expected, given, cpu_s=spec.cpu_s)
    said = report.read(execution)
    facts: dict[str, Any] = {"sandbox_tier": context.tier, "cpu_ms": execution.cpu_s * 1e3}
    unread = not execution.stdout.startswith(b"gold") or said.value == "no_gold"
    if unread or (said.limit and report.read(context.library.run(WORKER, expected, "1", cpu_s=spec.cpu_s)).limit):
        return infra_error(f"the spec's answer {spec.answer[:200]!r} can't be judged within the limits", **facts)
    if said.value == "equal":
        return Verdict(outcome=Outcome.PASSED, reward=1.0, **facts)
    # A crash of the library on this answer shows no equality either.
    outcome = said.limit or (Outcome.FORMAT if said.value == "no_answer" else Outcome.FAILED)
    first = f"{LIMITS[said.limit]} limit exceeded.\n" if said.limit else ""
    if outcome is Outcome.FORMAT:
        first = "Not mathematics.\n"
    text = first + feedback.wrong_text(given, spec.answer if spec.feedback.expected else "")
    return Verdict(outcome=outcome, reward=0.0, feedback=text, **facts)
