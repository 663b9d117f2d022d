"""Scores of reasoning-gym. Runs in a sealed child: several of its scorers evaluate the answer as Python.

Invariants:
- No scorer evaluates an answer. Where one calls `eval`, it gets `ast.literal_eval`; where one has sympy parse the
  answer, which evaluates it too, the answer is read first, and one that is more than numbers, names, operators and a
  few functions of mathematics scores 0. So an answer decides nothing here but what it says, and the score in the
  report is the scorer's own.
- The entry comes back with the types that the generator gave it (`pmd.services.common.values`).
"""

from __future__ import annotations

import ast
import math
import sys
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from pmd.services.common import values

MAX_CHARS = 10_000
LITERALS = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")
"""Data sets whose scorer calls `eval` on the answer."""
FORMULAS = frozenset(
    {"simple_integration", "intermediate_integration", "polynomial_multiplication", "puzzle24", "countdown"}
)
"""Data sets whose scorer has sympy parse the answer, which evaluates it too."""
FUNCTIONS = frozenset(
    {*("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "sinh", "cosh", "tanh")}
    | {*("asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "cbrt", "Abs", "sign")}
)
_FORMULA_NODES = (
    *(ast.Expression, ast.Constant, ast.UnaryOp, ast.USub, ast.UAdd, ast.BinOp, ast.Name, ast.Call, ast.Load),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.FloorDiv, ast.Mod, ast.BitXor),
)

for _name in LITERALS:
    sys.modules[DATASETS[_name][0].__module__].eval = ast.literal_eval  # type: ignore[attr-defined]


def judge(dataset: str, settings: dict[str, Any], entry: Any, answer: str) -> float:
    """The score of an answer, in [0, 1].

    Raises:
        Exception: whatever the scorer raises.
    """
    if len(answer) > MAX_CHARS or (dataset in FORMULAS and not _is_formula(answer)):
        return 0.0
    score = float(_scorer(dataset, **settings).score_answer(answer, values.decode(entry)))
    if not math.isfinite(score):
        raise ValueError(f"the scorer says {score}")
    return min(max(score, 0.0), 1.0)


def _scorer(dataset: str, **settings: Any) -> Any:
    if dataset not in DATASETS:
        raise ValueError(f"reasoning-gym has no data set {dataset!r}")
    return reasoning_gym.create_dataset(dataset, **{"size": 1, "seed": 0, **settings})


def _is_formula(answer: str) -> bool:
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _FORMULA_NODES):
            return False
        if isinstance(node, ast.Constant) and type(node.value) not in (int, float):
            return False
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS):
            return False
    return True
