"""Comparison of what a program produced with what was expected. Runs in the trusted process only.

Modes, for what a program prints and for the JSON value that a function returns:

| mode            | printed text                                          | returned value                          |
|-----------------|-------------------------------------------------------|-----------------------------------------|
| `livecodebench` | `strict`, or equal as lists of decimal numbers, by line | Python's `==`: 1, 1.0 and true are equal |
| `strict`        | equal lines, white space around each and all ignored  | equal, types included                   |
| `tokens`        | equal words, whatever is between them                 | (programs that print only)              |
| `float`         | equal words, numbers within the tolerance             | numbers within the tolerance            |

Invariants:
- What a program produced is bytes until it is parsed here, with limits; no object of its making is ever compared,
  so none of its methods is ever called.
- Every comparison is linear in the size of its input and never recurses on it deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

Mode = Literal["livecodebench", "strict", "tokens", "float"]

MAX_DEPTH = 128
PYTHON_INT_DIGITS = 4300
"""Python refuses to parse longer integers."""


class NotJson(ValueError):
    """The bytes are not JSON within the limits."""


def parse_json(data: bytes | str, *, strict: bool = False) -> Any:
    """The value of a JSON text.

    Integers too long for Python become their digits as bytes, which are equal exactly when the integers are and
    equal no other JSON value.

    Args:
        strict: refuse keys that occur twice in an object (else the last one counts) and numbers that JSON's readers
            differ on: beyond every float.

    Raises:
        NotJson: invalid, nested deeper than `MAX_DEPTH`, or holding NaN or Infinity.
    """
    try:
        lenient: dict[str, Any] = {"parse_int": _integer}
        hooks = lenient if not strict else {"object_pairs_hook": _unique, "parse_float": _finite, "parse_int": _short}
        value = json.loads(data, parse_constant=_refuse, **hooks)
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


def _short(digits: str) -> int:
    _finite(digits)
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object names a key twice")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is beyond every float")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _children(value: Any) -> Any:
    return value if type(value) is list else value.values() if type(value) is dict else ()


def equal_output(mode: Mode, got: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether a program printed what was expected; `tolerance` is the one of `close`."""
    match mode:
        case "livecodebench":
            return _equal_lines(got, expected, _equal_decimals)
        case "strict":
            return _equal_lines(got, expected, lambda a, b: False)  # noqa: ARG005 -- unequal text is unequal
        case "tokens":
            return got.split() == expected.split()
        case "float":
            words, wanted = got.split(), expected.split()
            return len(words) == len(wanted) and all(
                _close_words(a, b, tolerance) for a, b in zip(words, wanted, strict=True)
            )


def equal_values(mode: Mode, got: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether a JSON value is the expected one; `tolerance` is the one of `close`."""
    if mode == "livecodebench":
        return bool(got == expected)
    pairs = [(got, expected)]
    while pairs:
        a, b = pairs.pop()
        if mode == "float" and _is_number(a) and _is_number(b):
            same = _close_numbers(a, b, tolerance)
        elif type(a) is not type(b):
            same = False
        elif type(a) is list:
            same = len(a) == len(b)
            pairs.extend(zip(a, b, strict=False))
        elif type(a) is dict:
            same = a.keys() == b.keys()
            pairs.extend((a[key], b[key]) for key in a if same)
        else:
            same = bool(a == b)
        if not same:
            return False
    return True


def close(got: float, expected: float, tolerance: float) -> bool:
    """Whether two finite numbers differ by at most `tolerance`, absolutely or relative to the expected one."""
    return abs(got - expected) <= tolerance * max(1.0, abs(expected))


def _equal_lines(got: str, expected: str, same: Any) -> bool:
    got_lines, expected_lines = got.strip().split("\n"), expected.strip().split("\n")
    return len(got_lines) == len(expected_lines) and all(
        a.strip() == b.strip() or same(a, b) for a, b in zip(got_lines, expected_lines, strict=True)
    )


def _equal_decimals(got: str, expected: str) -> bool:
    """Whether two lines are equal lists of numbers; no number is ever written out, so `1e999999999` costs nothing."""
    wanted = expected.split()
    words = got.split(None, len(wanted))  # a line that goes on is not looked at any further
    try:
        return len(words) == len(wanted) and all(Decimal(a) == Decimal(b) for a, b in zip(words, wanted, strict=True))
    except InvalidOperation:  # not a number, a signalling NaN, an exponent beyond every limit
        return False


def _close_words(got: str, expected: str, tolerance: float) -> bool:
    try:
        a, b = float(got), float(expected)
    except ValueError:
        return got == expected
    if math.isfinite(a) and math.isfinite(b):
        return close(a, b, tolerance)
    return got == expected and not math.isnan(a)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _close_numbers(got: float, expected: float, tolerance: float) -> bool:
    try:
        a, b = float(got), float(expected)
    except OverflowError:  # integers beyond every float are equal or not
        return got == expected
    return got == expected or (math.isfinite(a) and math.isfinite(b) and close(a, b, tolerance))
