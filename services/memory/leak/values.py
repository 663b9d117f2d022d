"""The value of a mathematical expression, so that two that are written differently can be compared.

It stands for the verifier's equality, which the memory can't call: two expressions are the same when they have the same
value, where each variable has one fixed value that no honest computation meets by chance. Nothing is executed: the
reader knows numbers, signs, brackets and a few functions, and every step is bounded.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

FUNCTIONS: dict[str, Callable[[float], float]] = {
    **{"sqrt": math.sqrt, "exp": math.exp, "sin": math.sin, "cos": math.cos, "tan": math.tan},
    **{"ln": math.log, "log": math.log},
}
CONSTANTS = {"pi": math.pi, "e": math.e}
_DOES: dict[type[ast.operator], Callable[[float, float], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.Pow: math.pow},
}


class Unreadable(ValueError):
    """The tokens are no expression, or its value is no finite real number."""


def value_of(tokens: Sequence[str]) -> float:
    """The value of an expression, signs of multiplication and brackets of functions left out or not.

    Raises:
        Unreadable: for anything else.
    """
    code = ""
    for before, sign in pairwise(["(", *tokens]):
        ends = before in {")", "!"} or before[-1].isalnum()
        begins = sign == "(" or sign[0].isalnum() or sign[0] == "."
        code += ("*" if ends and begins and before not in FUNCTIONS else " ") + ("**" if sign == "^" else sign)
    code = re.sub(r"\b(sqrt|ln|log|exp|sin|cos|tan) +([\w.]+)", r"\1(\2)", code)
    code = re.sub(r"(?<![\w)])(\d{1,2})\s*!", lambda m: str(math.factorial(int(m[1]))), code)
    try:
        value = _evaluate(ast.parse(code.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError, TypeError) as error:
        raise Unreadable(str(error)) from error
    if not math.isfinite(value):
        raise Unreadable("infinite")
    return value


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            return CONSTANTS[name] if name in CONSTANTS else math.prod(map(_variable, name))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_evaluate(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _evaluate(inner)
        case ast.Call(func=ast.Name(id=name), args=[inner]) if name in FUNCTIONS:
            return FUNCTIONS[name](_evaluate(inner))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _DOES:
            return float(_DOES[type(sign)](_evaluate(left), _evaluate(right)))
    raise Unreadable(ast.dump(node))


def _variable(letter: str) -> float:
    """The value that stands for a variable: between 1 and 2, and different for each letter."""
    return 1.0 + math.modf(math.sin(ord(letter)) * 43758.5453)[0] ** 2
