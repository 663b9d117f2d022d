"""JSON Schema (draft 2020-12, or what `$schema` names) without any access to other documents.

Two departures from jsonschema: `multipleOf` reckons with the decimal numbers that people write, since in binary ones
19.99 is no multiple of 0.01, and `$` in a `pattern` is the end, as in ECMA-262, where Python's is also in front of a
last newline.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from jsonschema import validators
from jsonschema.exceptions import ValidationError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry

MAX_ERRORS = 3
RECURSION = 50_000
"""Enough for the deepest value under a schema that takes many steps per level: how deep an answer is must not be what
makes a schema unusable."""
MAX_CHARS = 300
"""Of a path and of a message: both may quote the value."""

_END = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(\$)", re.DOTALL)
"""A `$` (its group) among what only looks like one: escaped, or in a class."""


def judge(schema: Any, value: Any) -> list[list[str]]:
    """Path, keyword and message of the first errors of `value`; none when it is valid.

    Raises:
        Exception: the schema itself can't be used: a reference that it doesn't hold, an invalid pattern, a loop.
    """
    sys.setrecursionlimit(RECURSION)
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    errors = []
    for error in validator.iter_errors(value):
        errors.append([error.json_path[:MAX_CHARS], str(error.validator), error.message[:MAX_CHARS]])
        if len(errors) == MAX_ERRORS:
            break
    return errors


def _multiple_of(validator: Any, divisor: Any, value: Any, schema: Any) -> Iterator[ValidationError]:  # noqa: ARG001
    if validator.is_type(value, "number") and (Fraction(str(value)) / Fraction(str(divisor))).denominator != 1:
        yield ValidationError(f"{value!r} is not a multiple of {divisor}")


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:  # noqa: ARG001
    if validator.is_type(value, "string") and not re.search(
        _END.sub(lambda m: r"\Z" if m[1] else m[0], pattern), value
    ):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


OWN = {"multipleOf": _multiple_of, "divisibleBy": _multiple_of, "pattern": _pattern}
for _draft in (
    validators.Draft3Validator,
    validators.Draft4Validator,
    validators.Draft6Validator,
    validators.Draft7Validator,
    validators.Draft201909Validator,
    validators.Draft202012Validator,
):
    _draft.VALIDATORS.update({keyword: OWN[keyword] for keyword in OWN.keys() & _draft.VALIDATORS.keys()})
