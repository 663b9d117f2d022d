"""A text answer that must match a regular expression as a whole: the last answer block, or else the whole completion,
with or without what only dresses it (`**AB-12**`).

The syntax is RE2's (https://github.com/google/re2/wiki/Syntax): no look-around, no back-references. In exchange
matching takes linear time, so no answer can hang it and none needs a limit. A pattern that shall only be found
somewhere says so: `(?s).*42.*`; then an answer that names everything matches too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import re2
from pydantic import Field, field_validator

from pmd.services.common import extract
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier import feedback
from pmd.services.verifier.context import Context
from pmd.services.verifier.visibility import Visibility

MAX_PATTERN = 10_000
MAX_CHARS = 1_000_000
"""Longer answers match nothing."""


class Spec(Strict):
    """`{"kind": "regex", "pattern": "[A-Z]{2}-[0-9]+"}`"""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=MAX_PATTERN)
    """What the answer must match from its first to its last character; `(?i)` in front ignores case."""
    feedback: Visibility = Visibility()

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        _compile(pattern)
        return pattern


@lru_cache(256)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        cause = error.args[0] if error.args else ""
        said = cause.decode(errors="replace") if isinstance(cause, bytes) else str(cause)
        raise ValueError(f"{said}; the syntax is RE2's; for look-around or back-references use kind python") from error


def answer(spec: Spec, completion: str) -> str | None:  # noqa: ARG001 -- the signature of all kinds
    """The answer's text; None when it is empty."""
    return extract.text_answer(completion) or None


def verify(spec: Spec, completion: str, context: Context) -> Verdict:  # noqa: ARG001 -- the signature of all kinds
    """`passed` when the whole answer matches, `format` when there is none, `failed` otherwise."""
    given = answer(spec, completion)
    if given is None:
        return Verdict(outcome=Outcome.FORMAT, reward=0.0, feedback="No answer found.")
    if len(given) <= MAX_CHARS:
        pattern = _compile(spec.pattern)
        for text in (given, extract.undressed(given)):
            if pattern.fullmatch(text.encode("utf-8", "replace").decode()) is not None:
                return Verdict(outcome=Outcome.PASSED, reward=1.0)
    shown = spec.pattern if spec.feedback.expected else ""
    return Verdict(outcome=Outcome.FAILED, reward=0.0, feedback=feedback.wrong_text(given, shown))
