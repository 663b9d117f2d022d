"""The leak guard: a reference answer, or a copy of a passing program, never reaches a teacher through memory.

A teacher that reads the answer teaches to state it, not to find it (Law 3). A note that leaks is quarantined
with the reason; it is kept for people to see and never shown. The guard knows the answer, the policy doesn't; it also
knows what the attempts that a note was written from ended with, which the policy does.

Each kind of answer has its file: `text`, `choice`, `code`. `forms`, `values` and `words` bring note and answer to one
form first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pmd.services.common.extract import boxes_of, text_answer, undressed
from pmd.services.common.wire import Problem
from pmd.services.memory.leak.choice import choice_leak
from pmd.services.memory.leak.code import code_leak
from pmd.services.memory.leak.text import typed_leak

MAX_FINAL = 200
"""Longer final answers are texts of their own, or attempts without one."""


def leak(note: str, problem: Problem, passed: Sequence[str] = ()) -> str | None:
    """Why `note` gives away the answer of `problem`, or None.

    Args:
        passed: completions of this problem that passed: what they end with must not be said, and their programs must
            not be copied.
    """
    spec = problem.verifier
    kind = spec.get("kind")
    if kind == "choice":
        return choice_leak(note, problem, str(spec.get("answer", "")), [str(x) for x in spec.get("labels", "ABCD")])
    if kind in {"code", "unit_tests"}:
        return code_leak(note, problem, passed)
    answers = dict.fromkeys([*_answers(spec), *_finals(passed)])
    return next((reason for answer in answers if (reason := typed_leak(note, problem, answer))), None)


def _answers(spec: Mapping[str, Any]) -> Iterator[str]:
    """The answers that a spec names: its own, a program's reference, the words that an expression is a choice of."""
    held = spec.get("entry", spec.get("payload"))  # of reasoning-gym, and what goes along to somebody's verifier
    given = spec.get("answer", spec.get("reference", held.get("answer") if isinstance(held, Mapping) else None))
    for answer in given if isinstance(given, list) else [given]:
        if isinstance(answer, str | int | float):
            yield str(answer)
    pattern = spec.get("pattern")
    if isinstance(pattern, str):
        bare = re.sub(r"^(?:\(\?[a-z]+\))?\^?|\$$", "", pattern)
        bare = re.sub(r"^\((?:\?:)?([^()]*)\)$", r"\1", bare)
        if not re.search(r"(?<!\\)[\[\](){}*+?.^$]|\\\w", bare):
            yield from (re.sub(r"\\(.)", r"\1", part) for part in bare.split("|"))


def _finals(passed: Sequence[str]) -> Iterator[str]:
    """What attempts that passed ended with, as the verifier reads it."""
    for completion in passed:
        text = text_answer(completion)
        final = undressed((boxes_of(text) or [text])[-1])
        if len(final) <= MAX_FINAL:
            yield final
