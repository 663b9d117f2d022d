"""Mathematical equality by math-verify (sympy). It has no time limit here: the sandbox ends what takes too long.

Three departures from math-verify: `1.6e-19` is a number, not 1.6 times e minus 19; since it rounds to six decimals, by
which all tiny numbers are equal, an expected number below `TINY` must also be met to a thousandth; and where one number
or equation is expected, an answer that joins several (`4 \\lor 5`, of which it reads the last) is different.
"""

from __future__ import annotations

import re
from typing import Any

from math_verify import parse, verify
from sympy import Expr, Rel

TINY = 1e-3
CLOSE = 1e-3
"""Largest relative difference to a tiny expected number."""
_JOINED = re.compile(r"\\(?:lor|vee|cup|land|wedge|cap|mid|parallel|oplus|setminus)(?![A-Za-z])")
_POWER = r" \\times 10^{\1}"
_EXPONENT = re.compile(r"(?<=\d)[eE]([+-]?\d{1,4})(?![\d.])")


def judge(gold: str, answer: str) -> str:
    """`equal`, `different`, `no_answer` (the answer is no mathematics) or `no_gold` (the expected one is none).

    Prints `gold` once the expected answer is parsed: a child that is ended before that was ended by the spec.
    """
    expected = _parse(gold)
    print("gold", flush=True)
    if not expected:
        return "no_gold"
    given = _parse(answer)
    if not given:
        return "no_answer"
    if isinstance(expected[0], Expr | Rel) and _JOINED.search(answer):
        return "different"
    try:
        equal = verify(expected, given, timeout_seconds=None) and _same_size(expected[0], given[0])
        return "equal" if equal else "different"
    except Exception:  # sympy gives up on some pairs; then they are not shown to be equal
        return "different"


def _parse(text: str) -> list[Any]:
    try:
        return list(parse(f"\\boxed{{{_EXPONENT.sub(_POWER, text)}}}", parsing_timeout=None))
    except (Exception, RecursionError):  # whatever a parser says of hostile text, it found no mathematics
        return []


def _same_size(expected: Any, given: Any) -> bool:
    try:
        wanted, got = float(expected), float(given)
    except (TypeError, ValueError, OverflowError):  # a set, an equation, a text: math-verify's own word counts
        return True
    return abs(wanted) >= TINY or abs(got - wanted) <= CLOSE * abs(wanted)
