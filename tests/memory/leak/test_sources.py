"""The leak guard knows the answers of every kind of spec that holds one."""

from __future__ import annotations

from typing import Any

import pytest

from pmd.services.common.wire import Message, Problem
from pmd.services.memory.leak.guard import leak

TESTS = ["assert longest(['a', 'bumblebee', 'wasp']) == 'bumblebee'"]
CHECK = "def check(candidate):\n    assert candidate(['a', 'bumblebee', 'wasp']) == 'bumblebee'\n"


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        ({"kind": "unit_tests", "tests": TESTS}, "For this list return 'bumblebee'."),
        ({"kind": "unit_tests", "test_code": CHECK, "entry_point": "longest"}, "For this list return 'bumblebee'."),
        (
            {"kind": "reasoning_gym", "dataset": "word_sorting", "entry": {"answer": "bumblebee, wasp"}},
            "It is bumblebee, wasp.",
        ),
        (
            {"kind": "http", "url": "https://judge.example", "payload": {"answer": "bumblebee"}},
            "The answer is bumblebee.",
        ),
    ],
)
def test_a_note_that_says_the_answer_is_caught(spec: dict[str, Any], note: str) -> None:
    problem = Problem(id="p", messages=[Message(role="user", content="Which word is longest?")], verifier=spec)
    assert leak(note, problem) is not None
    assert leak("Compare the lengths of all words, one after another.", problem) is None


def test_a_copy_of_a_passing_program_is_caught() -> None:
    problem = Problem(
        id="p",
        messages=[Message(role="user", content="Which word is longest?")],
        verifier={"kind": "unit_tests", "tests": TESTS},
    )
    program = (
        "def longest(words):\n    best = ''\n    for word in words:\n"
        "        if len(word) > len(best):\n            best = word\n    return best"
    )
    assert leak(f"Write it so:\n```python\n{program}\n```", problem, [f"```python\n{program}\n```"]) is not None
