"""The value of a mathematical expression, so that two that are written differently can be compared.

It stands for the verifier's equality, which the memory can't call: two expressions are the same when they have the same
value, where each variable has one fixed value that no honest computation meets by chance. Nothing is executed: the
reader knows numbers, signs, brackets and six functions, and every step is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt, "exp": math.exp, "sin": math.sin, "cos": math.cos, "tan": math.tan, "ln": math.log, "log": math.log,
}  # fmt: skip
MAX_FACTORIAL = 20


class Unreadable(ValueError):
    """The tokens are no expression, or its value is no finite real number."""


def variable(letter: str) -> float:
    """The value that stands for a variable: between 1 and 2, and different for each letter."""
    return 1.0 + math.modf(math.sin(ord(letter)) * 43758.5453)[0] ** 2


def value_of(tokens: Sequence[str]) -> float:
    """The value of an expression, signs of multiplication left out or not.

    Raises:
        Unreadable: for anything else.
    """
    try:
        reader = _Reader(tokens)
        value = reader.sum()
        if reader.next is not None or not math.isfinite(value):
            raise Unreadable("no expression")
        return value
    except (ValueError, ArithmeticError, RecursionError, TypeError) as error:
        raise Unreadable(str(error)) from error


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def sum(self) -> float:
        total = self._product()
        while self.next in {"+", "-"}:
            total += self._product() if self._take() == "+" else -self._product()
        return total

    def _product(self) -> float:
        value = self._signed()
        while (token := self.next) is not None and token not in {"+", "-", ")", "!"}:
            if token in {"*", "/"}:
                self._take()
            factor = self._signed()
            value = value / factor if token == "/" else value * factor
        return value

    def _signed(self) -> float:
        if self.next in {"-", "+"}:
            return -self._signed() if self._take() == "-" else self._signed()
        return self._power()

    def _power(self) -> float:
        base = self._atom()
        while self.next == "!":
            self._take()
            if not 0 <= base <= MAX_FACTORIAL or base != int(base):
                raise Unreadable("factorial")
            base = float(math.factorial(int(base)))
        if self.next in {"^", "**"}:
            self._take()
            return math.pow(base, self._signed())
        return base

    def _atom(self) -> float:
        if self.next is None:
            raise Unreadable("ends early")
        token = self._take()
        if token == "(":
            value = self.sum()
            if self.next != ")":
                raise Unreadable("bracket")
            self._take()
            return value
        if token in _FUNCTIONS:
            return _FUNCTIONS[token](self._power())
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token.isalpha():
            return math.prod(variable(letter) for letter in token)
        return float(token)
