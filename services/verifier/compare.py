"""Comparison of what a program produced with what was expected. Runs in the trusted process only.

Invariants:
- What a program produced is bytes until it is parsed here, with limits; no object of its making is ever compared,
  so none of its methods is ever called.
- Both comparisons are linear in the size of their input and never recurse on it.
"""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 128
PYTHON_INT_DIGITS = 4300
"""Python refuses to parse longer integers."""


class NotJson(ValueError):
    """The bytes are not JSON within the limits."""


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Integers too long for Python become their digits as bytes, which are equal exactly when the integers are and
    equal no other JSON value.

    Raises:
        NotJson: invalid, nested deeper than `MAX_DEPTH`, or holding NaN or Infinity.
    """
    try:
        value = json.loads(data, parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise NotJson(f"nested deeper than {MAX_DEPTH}")


def _integer(digits: str) -> int | bytes:
    return int(digits) if len(digits) <= PYTHON_INT_DIGITS else digits.encode()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _children(value: Any) -> Any:
    return value if type(value) is list else value.values() if type(value) is dict else ()


def equal_values(got: Any, expected: Any) -> bool:
    """Whether two JSON values are the same, types included: 1, 1.0 and true are three values."""
    pairs = [(got, expected)]
    while pairs:
        a, b = pairs.pop()
        if type(a) is not type(b):
            return False
        if type(a) is list:
            if len(a) != len(b):
                return False
            pairs.extend(zip(a, b, strict=True))
        elif type(a) is dict:
            if a.keys() != b.keys():
                return False
            pairs.extend((a[key], b[key]) for key in a)
        elif a != b:
            return False
    return True


def equal_output(got: str, expected: str) -> bool:
    """Whether two outputs are the same text: line by line, without white space around the whole and each line."""
    got_lines, expected_lines = got.strip().split("\n"), expected.strip().split("\n")
    return len(got_lines) == len(expected_lines) and all(
        a.strip() == b.strip() for a, b in zip(got_lines, expected_lines, strict=True)
    )
