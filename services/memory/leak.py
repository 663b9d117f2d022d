"""The leak guard: a reference answer, or a copy of a passing program, never reaches a teacher through memory.

A teacher that reads the answer teaches to state it, not to find it (Law 3). A note that leaks is quarantined
with the reason; it is kept for people to see and never shown. The guard knows the answer, the policy doesn't.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

from services.common.wire import Problem

NGRAM = 8
"""A run of this many code tokens in common with a passing program is a copy."""

_CODE_TOKEN = re.compile(r"\w+|[^\w\s]")
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LETTER_CLAIM = (
    r"(?i:\b(?:answer|option|choice|letter|correct)\b)[^.\n]{{0,24}}?"
    r"(?<![A-Za-z])[(\"'*]*{label}[)\"'*]*(?![A-Za-z]| [a-z])"
)
"""Case matters for the letter: "the answer is a number" claims nothing."""

_OPTION_LINE = r"^\s*[(]?{label}[).:]\s*(.+?)\s*$"
MIN_LITERAL = 3
"""Shorter expected outputs ("1", "no") occur in honest notes by chance."""


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()


def _runs(code: str) -> set[tuple[str, ...]]:
    tokens = _CODE_TOKEN.findall(code)
    return {tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}


def programs(completions: Sequence[str]) -> list[str]:
    """The fenced programs in completions."""
    return [block for text in completions for block in _FENCE.findall(text)]


def _is_program(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return any(
        isinstance(node, ast.FunctionDef | ast.Return | ast.Import | ast.For | ast.While) for node in ast.walk(tree)
    )


def leak(note: str, problem: Problem, passed: Sequence[str] = ()) -> str | None:
    """Why `note` gives away the answer of `problem`, or None.

    Args:
        passed: completions of this problem that passed; their fenced programs must not be copied.
    """
    spec = problem.verifier
    kind = spec.get("kind")
    if kind == "choice":
        return _choice_leak(note, problem, str(spec.get("answer", "")), [str(x) for x in spec.get("labels", "ABCD")])
    if kind == "exact":
        answer = _squeeze(str(spec.get("answer", "")))
        if answer and answer not in _squeeze(problem.question()) and answer in _squeeze(note):
            return "states the reference answer"
    if kind == "code":
        return _code_leak(note, problem, passed)
    return None


def _choice_leak(note: str, problem: Problem, answer: str, labels: Sequence[str]) -> str | None:
    if re.search(r"</?answer>", note, re.IGNORECASE):
        return "contains an answer tag"
    for label in labels:
        if re.search(_LETTER_CLAIM.format(label=re.escape(label)), note):
            return "names an option letter as the answer"
    option = re.search(_OPTION_LINE.format(label=re.escape(answer)), problem.question(), re.MULTILINE)
    if option and len(_squeeze(option[1])) >= MIN_LITERAL and _squeeze(option[1]) in _squeeze(note):
        return "quotes the right option"
    return None


def _code_leak(note: str, problem: Problem, passed: Sequence[str]) -> str | None:
    if "```" in note or _is_program(note):
        return "contains a program"
    own = _runs(note)
    if own and any(own & _runs(program) for program in programs(passed)):
        return f"copies {NGRAM} tokens of a passing program"
    question, squeezed = _squeeze(problem.question()), _squeeze(note)
    for test in problem.verifier.get("tests", ()):
        literal = _squeeze(json.dumps(test["output"]) if not isinstance(test.get("output"), str) else test["output"])
        if len(literal) >= MIN_LITERAL and literal not in question and literal in squeezed:
            return "quotes the expected output of a hidden test"
    return None
