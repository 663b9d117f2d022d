"""Mathematical equality by math-verify (sympy). It has no time limit here: the sandbox ends what takes too long."""

from __future__ import annotations

from typing import Any

from math_verify import parse, verify


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
        return "equal" if verify(expected, given, timeout_seconds=None) else "different"
    except Exception:  # sympy gives up on some pairs; then they are not shown to be equal
        return "different"


def _parse(text: str) -> list[Any]:
    try:
        return list(parse(f"\\boxed{{{text}}}", parsing_timeout=None))
    except (Exception, RecursionError):  # whatever a parser says of hostile text, it found no mathematics
        return []
