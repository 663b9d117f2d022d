"""Mathematical equality by math-verify (sympy). It has no time limit here: the sandbox ends what takes too long.

Three departures from math-verify. It looks for mathematics in prose, so of what it can't read it takes the last number;
here an answer is mathematics as a whole, or a text (`4 \\iff 5` is no number). `1.6e-19` is a number, not 1.6 times e
minus 19. And since it rounds to six decimals, by which all tiny numbers are equal, an expected number below `TINY` must
also be met to a thousandth, wherever it stands.
"""

from __future__ import annotations

import cmath
import re
from dataclasses import replace
from typing import Any

from math_verify import LatexExtractionConfig, verify
from math_verify.grader import is_equation, is_relation, should_treat_as_complex
from math_verify.parser import latex2sympy, normalize_latex
from sympy import And, Basic, Eq, Expr, FiniteSet, Interval, MatrixBase, Number, Rational, Tuple, Union

TINY = 1e-3
CLOSE = 1e-3
"""Largest relative difference to a tiny expected number."""
CONTRADICTION = Rational(1, 100)
"""Relative difference by which the two numbers of `4 = 5` contradict each other; those of `1/3 = 0.333` do not."""

_CLEANING = replace(LatexExtractionConfig().normalization_config, boxed="last")
_POWER = r" \\times 10^{\1}"
_EXPONENT = re.compile(r"(?<=\d)[eE]([+-]?\d{1,4})(?![\d.])")
_WRITTEN = str.maketrans({"~": " ", "°": r"^{\circ}", "≈": r"\approx "})
"""Signs that the grammar lacks."""
_FRAMES = re.compile(r"(?<!\\)\\(?:[][()]|(?:bf|rm)(?![A-Za-z]))")
"""The frames of a formula, and fonts."""
_LEADING = re.compile(r"^\s*(?:=|\\(?:approx|therefore|implies|Rightarrow)(?![A-Za-z]))")
"""Before an answer they add nothing to it."""
_CONVERTED = re.compile(r"\\(?:text|mathrm|mbox)(?![A-Za-z])|\$|%|\d_")
"""Units and bases, which are not read: `1.50 = 150` of dollars and cents is no contradiction."""
_NAMED = re.compile(r"(?:\\(?:#|(?:det|deg|dim|max|min)(?![A-Za-z]))|[A-Za-z\s(){}^*',])+=([^=]+)")
"""A name that the grammar can't read, and what it is equal to."""


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
    try:
        equal = verify(expected, given, timeout_seconds=None) and _same_size(expected[0], given[0])
        return "equal" if equal and not _contradicts_itself(given[0], answer) else "different"
    except Exception:  # sympy gives up on some pairs; then they are not shown to be equal
        return "different"


def _parse(text: str) -> list[Any]:
    """What the whole of `text` means, if anything, and its normal form; empty when that is empty."""
    text = _FRAMES.sub("", _EXPONENT.sub(_POWER, text).translate(_WRITTEN))
    text = _LEADING.sub("", text, count=1)
    try:
        text = normalize_latex(text, config=_CLEANING)
        return [_meaning(text), text]
    except (Exception, RecursionError):  # whatever a parser says of hostile text, it found no mathematics
        return [text] if text else []


def _meaning(text: str) -> Any:
    try:
        return latex2sympy(text, is_real=not should_treat_as_complex(text))
    except Exception:
        named = _NAMED.fullmatch(text)
        if named is None:
            raise
        return _meaning(named[1])


def _contradicts_itself(given: Any, answer: str) -> bool:
    if not isinstance(given, Eq) or _CONVERTED.search(answer):
        return False
    left, right = given.lhs.doit(), given.rhs.doit()
    return isinstance(left, Number) and isinstance(right, Number) and abs(left - right) > CONTRADICTION * abs(right)


def _same_size(expected: Any, given: Any) -> bool:
    """Whether `given`, which math-verify holds for equal, has in the place of each tiny number one as small."""
    if is_relation(expected) and is_relation(given):
        # `x = 5` and `x + 2 = 7` are one: only where the left sides are the same must the right ones be.
        pairs = zip(_relations(expected), _relations(given), strict=False)
        return all(e.lhs != g.lhs or _close(_numbers(e.rhs), _numbers(g.rhs)) for e, g in pairs)
    return _close(_numbers(expected), _numbers(given))


def _close(wanted: list[complex | None], got: list[complex | None]) -> bool:
    if len(wanted) != len(got):  # math-verify has compared other things than numbers
        return True
    return all(
        w is None or abs(w) >= TINY or (g is not None and abs(g - w) <= CLOSE * abs(w))
        for w, g in zip(wanted, got, strict=True)
    )


def _relations(value: Any) -> list[Any]:
    """The relations of a chain, symbols on the left if on one side; of a chain of equations what its ends say."""
    links = value._unsorted_args if isinstance(value, And) else [value]
    if is_equation(value):
        links = [Eq(links[0].lhs, links[-1].rhs, evaluate=False)]
    return [link.reversed if link.rhs.free_symbols and not link.lhs.free_symbols else link for link in links]


def _numbers(value: Any) -> list[complex | None]:
    """The numbers that `value` is made of, in an order that equal values share; None for what is no number."""
    if is_relation(value):
        return [number for relation in _relations(value) for number in _numbers(relation.rhs)]
    if isinstance(value, FiniteSet):
        parts = [number for element in value.args for number in _numbers(element)]
        return sorted(parts, key=lambda n: (n is None, 0 if n is None else (n.real, n.imag)))
    if isinstance(value, Interval):
        return [_number(value.start), _number(value.end)]
    if isinstance(value, Tuple | Union):
        return [number for part in value.args for number in _numbers(part)]
    if isinstance(value, MatrixBase):
        return [_number(element) for element in value]
    return [_number(value)]


def _number(value: Basic) -> complex | None:
    """The value of an expression, of one with symbols at some point; None when it has none."""
    if not isinstance(value, Expr):
        return None
    at = {symbol: Rational(sum(map(ord, str(symbol))), 97) for symbol in value.free_symbols}
    try:
        number = complex(value.doit().evalf(subs=at))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if cmath.isfinite(number) else None
