"""Mathematical equality by math-verify (sympy). It has no time limit here: the sandbox ends what takes too long.

Departures from math-verify:
- It looks for mathematics in prose, so of what it can't read it takes the last number; here an answer is mathematics
  as a whole, or a text (`4 \\iff 5` is no number), in which white space does not matter but between words.
- No part of an answer is left out but a unit at its end: words without a digit, a comma, an `or`, `and`, `if`, `not`.
- `1.6e-19` is a number, not 1.6 times e minus 19; `pi/2`, `x**2` and `exp(16)` are what a programmer means by them.
- It takes whatever differs by less than 1e-15 for equal; here numbers are equal when they are, whatever their size, and
  wherever they stand. Where one of the two is written with a decimal point, the other need only agree to six decimals,
  and an expected one below `TINY` to a thousandth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from latex2sympy2_extended.math_normalization import units
from math_verify import LatexExtractionConfig, verify
from math_verify.grader import is_equation, is_relation, should_treat_as_complex
from math_verify.parser import latex2sympy, normalize_latex
from sympy import (
    And,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Interval,
    MatrixBase,
    Number,
    Rational,
    Set,
    Tuple,
    UnevaluatedExpr,
    Union,
)

TINY = 1e-3
CLOSE = 1e-3
"""Largest relative difference to a tiny expected number."""
CONTRADICTION = Rational(1, 100)
"""Relative difference by which the two numbers of `4 = 5` contradict each other; those of `1/3 = 0.333` do not."""

DIGITS = 80
"""Significant digits to which irrational numbers that are equal must agree; rational ones are compared exactly."""

_ALL = LatexExtractionConfig().normalization_config
_BASIC = replace(_ALL, boxed="last", units=False, nits=False, malformed_operators=False)
_REST = replace(_ALL, boxed="none", units=False, basic_latex=False)
_UNIT = re.compile(r"\\(?:text|mbox)\s*\{((?:[^{}]|\{\})*)\}\s*(?:\^\{?-?[23]\}?)?\s*$")
"""Words behind an answer, as the basic normalisation leaves them."""
_BARE_UNIT = re.compile(r"(?<=[\d}\s])\s*(?<![A-Za-z\\])([A-Za-z]{2,}|(?<=\s)[ghlms])\s*$")
_UNITS = frozenset(units) | {f"{unit}s" for unit in units} | {f"{unit}es" for unit in units}
_NO_UNIT = re.compile(r"[\d,;=<>]|\b(?:or|and|if|not|but|no|except|unless|when|is|to)\b", re.IGNORECASE)
"""What says more than a unit does."""
_DANGLING = re.compile(r"^\s*[,;]|[,;]\s*$|,\s*,")
"""A list with nothing at an end: what stood there is no mathematics."""
_WORDS = re.compile(
    r"(?<![A-Za-z\\])(pi|theta|alpha|beta|gamma|lambda|phi|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|arcsin|arccos|arctan"
    r"|exp|ln|log)(?![A-Za-z])"
)
"""Names that programs and people write without a backslash; to LaTeX they are products of letters."""
_ROOT = re.compile(r"(?<![A-Za-z\\])\\?sqrt\s*\(")
_STARS = re.compile(r"\*\*\s*")
_RAISED = re.compile(r"\^\s*(-?\d{2,}|-\d)(?![\d.])")
_DOTS = re.compile(r"\\[lc]?dots\b|\.\.\.|…")
_SPACE = re.compile(r"((?<=[^\W_])\s+(?=[^\W_]))|\s+")
"""White space: between two words (its group), or of no account."""
_COMMAND = re.compile(r"(\\[A-Za-z]+)(?=\d)")
_BASE = re.compile(r"\d_\{?(\d+)\}?\s*\$?\s*$")
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
    if (base := _BASE.search(answer)) and base[1] not in _BASE.findall(gold):
        return "different"
    try:
        equal = verify(expected, given, timeout_seconds=None) and _same_size(expected[0], given[0])
        return "equal" if equal and not _contradicts_itself(given[0], answer) else "different"
    except Exception:  # sympy gives up on some pairs; then they are not shown to be equal
        return "different"


def _parse(text: str) -> list[Any]:
    """What the whole of `text` means, if anything, and its normal form; empty when that is empty."""
    text = written = _LEADING.sub("", _FRAMES.sub("", _EXPONENT.sub(_POWER, _latex(text)).translate(_WRITTEN)), count=1)
    try:
        if _DOTS.search(text):
            return _as_text(text)
        text = normalize_latex(text, config=_BASIC)
        if _DANGLING.search(text):
            return _as_text(text)
        quantity = _without_unit(text)
        if quantity is None:
            return _as_text(written)
        text = normalize_latex(quantity, config=_REST)
        return [_meaning(text), text]
    except (Exception, RecursionError):  # whatever a parser says of hostile text, it found no mathematics
        return _as_text(text)


def _latex(text: str) -> str:
    """`text` with what plain expressions write otherwise than LaTeX: `pi/2`, `x**2`, `sqrt(x*(x + 1))`, `exp(16)`."""
    if re.search(r"\\(?:text|mbox|math|operator)", text):
        return text
    text = _WORDS.sub(r"\\\1 ", _STARS.sub("^", text))
    while root := _ROOT.search(text):
        end = _closing(text, root.end())
        if end is None:
            break
        text = f"{text[: root.start()]}\\sqrt{{{text[root.end() : end]}}}{text[end + 1 :]}"
    if ("\\" not in _WORDS.sub("", text) and "{" not in text) or "**" in text:
        text = _RAISED.sub(r"^{\1}", text)
    return text


def _closing(text: str, at: int) -> int | None:
    """Where the parenthesis ends that opens before `at`."""
    depth = 1
    for place in range(at, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None


def _as_text(text: str) -> list[Any]:
    plain = _COMMAND.sub(r"\1 ", _DOTS.sub(r"\\ldots", text))
    plain = _SPACE.sub(lambda m: " " if m[1] else "", plain).strip()
    return [plain] if plain else []


def _without_unit(text: str) -> str | None:
    """`text` without the unit at its end; None when what stands there says more than a unit."""
    words = _UNIT.search(text)
    if words and text[: words.start()].strip():
        if _NO_UNIT.search(words[1]):
            return None
        return text[: words.start()].strip()
    bare = _BARE_UNIT.search(text)
    if bare and bare[1] in _UNITS and text[: bare.start()].strip():
        return text[: bare.start()].strip()
    return text


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
    """Whether `given`, which math-verify holds for equal, has an equal number in the place of each of `expected`."""
    wanted, got = _numbers(expected), _numbers(given)
    if is_relation(expected) and is_relation(given):
        # `x = 5` and `x + 2 = 7` are one: only where the left sides are the same must the right ones be.
        ours, theirs = _relations(expected), _relations(given)
        if len(ours) != len(theirs):
            return True
        if len({*(r.lhs for r in ours), *(r.lhs for r in theirs)}) > 1:
            pairs = [(e, g) for e, g in zip(ours, theirs, strict=True) if e.lhs == g.lhs]
            return all(_agree(e.rhs, g.rhs) for e, g in pairs if not e.rhs.free_symbols & e.lhs.free_symbols)
        wanted, got = _sorted(r.rhs for r in ours), _sorted(r.rhs for r in theirs)
    elif isinstance(expected, Set) or isinstance(given, Set):
        wanted, got = _sorted(wanted), _sorted(got)
    # Of other lengths: math-verify has compared other things than numbers.
    return len(wanted) != len(got) or all(map(_agree, wanted, got))


def _relations(value: Any) -> list[Any]:
    """The relations of a chain, symbols on the left if on one side; of a chain of equations what its ends say."""
    links = value._unsorted_args if isinstance(value, And) else [value]
    if is_equation(value):
        links = [Eq(links[0].lhs, links[-1].rhs, evaluate=False)]
    return [link.reversed if link.rhs.free_symbols and not link.lhs.free_symbols else link for link in links]


def _numbers(value: Any) -> list[Any]:
    """What `value` is made of: expressions, and what else there is."""
    if is_relation(value):
        return [number for relation in _relations(value) for number in _numbers(relation.rhs)]
    if isinstance(value, Interval):
        return [value.start, value.end]
    if isinstance(value, FiniteSet | Tuple | Union):
        return [number for part in value.args for number in _numbers(part)]
    if isinstance(value, MatrixBase):
        return list(value)
    return [value]


def _sorted(parts: Iterable[Any]) -> list[Any]:
    """`parts` in an order that equal ones share, however they are written."""

    def key(part: Any) -> tuple[bool, Any, Any, str]:
        number = _number(part)
        if number is None or not number.is_finite:
            return True, 0, 0, str(part)
        real, imaginary = number.evalf(DIGITS).as_real_imag()
        return False, real, imaginary, ""

    return sorted(parts, key=key)


def _agree(wanted: Any, got: Any) -> bool:
    """Whether two expressions that math-verify holds for equal are: as numbers, or at some point of their symbols."""
    w, g = _number(wanted), _number(got)
    if w is None or g is None or wanted.free_symbols != got.free_symbols:
        return w is None or abs(w) >= TINY
    readings = [(w, g)]
    if wanted.has(UnevaluatedExpr) or got.has(UnevaluatedExpr):  # a percentage is its number, or a hundredth of it
        readings += [(w * 100, g), (w, g * 100)]
    about = wanted.has(Float) or got.has(Float)
    return any(_close(*pair) if about else _equal(*pair) for pair in readings)


def _close(wanted: Any, got: Any) -> bool:
    """Whether a number written in decimals is the other one; that they agree to six of them math-verify has seen."""
    return bool(abs(wanted) >= TINY or abs(got - wanted) <= CLOSE * abs(wanted))


def _equal(wanted: Any, got: Any) -> bool:
    difference = wanted - got
    if difference.is_Rational:
        return bool(difference == 0)
    size = max(abs(wanted.evalf()), abs(got.evalf()))
    return bool(abs(difference.evalf(maxn=2 * DIGITS)) <= size * Rational(1, 10**DIGITS))


def _number(value: Any) -> Any:
    """The value of an expression, of one with symbols at some point; None when it has none."""
    if not isinstance(value, Expr):
        return None
    at = {symbol: Rational(sum(map(ord, str(symbol))), 97) for symbol in value.free_symbols}
    try:
        number = value.subs(at).doit()
        return number if number.is_number and number.is_finite else None
    except (TypeError, ValueError, OverflowError):
        return None
