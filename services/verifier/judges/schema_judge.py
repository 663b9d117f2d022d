"""JSON Schema (draft 2020-12, or what `$schema` names) without any access to other documents."""

from __future__ import annotations

import sys
from typing import Any

from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry

MAX_ERRORS = 3
RECURSION = 50_000
"""Enough for the deepest value under a schema that takes many steps per level: how deep an answer is must not be what
makes a schema unusable."""
MAX_CHARS = 300
"""Of a path and of a message: both may quote the value."""


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
