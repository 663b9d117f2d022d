"""The leak guard against those who want to get past it, and against honest notes that look alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.wire import Message, Problem
from services.memory.leak import leak

NOTES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "leak_notes.yaml").read_text())


def problem(about: dict[str, Any]) -> Problem:
    return Problem(id="p", messages=[Message(role="user", content=about["question"])], verifier=about["verifier"])


def caught(kind: str, group: str | None = None) -> dict[str, str | None]:
    """What the guard says of each note."""
    found = {}
    for about in NOTES["problems"]:
        if group in {None, about["group"]}:
            one = problem(about)
            found |= {note: leak(note, one, [NOTES["program"]]) for note in about[kind]}
    return found


@pytest.mark.parametrize("group", ["numbers", "words", "letters", "code"])
def test_planted_answers_are_caught_in_every_dress(group: str) -> None:
    reasons = caught("planted", group)
    assert len(reasons) >= 30
    assert [note for note, reason in reasons.items() if reason is None] == []


def test_honest_notes_pass() -> None:
    reasons = caught("honest")
    blamed = {note: reason for note, reason in reasons.items() if reason is not None}
    assert blamed == {}, f"{len(blamed)} of {len(reasons)}"


def test_an_answer_in_other_words_passes_and_we_say_so() -> None:
    assert set(caught("beyond").values()) == {None}


def test_a_problem_with_large_tests_is_guarded_quickly() -> None:
    tests = [{"input": " ".join(map(str, range(k, k + 50_000))), "output": str(k)} for k in range(40)]
    large = problem({"question": "Sum them.", "verifier": {"kind": "code", "tests": tests}})
    leak("Read the numbers once.", large, [NOTES["program"]])
    began = time.process_time()
    for _ in range(20):
        assert leak("Read the numbers once.", large, [NOTES["program"]]) is None
    assert time.process_time() - began < 1.0
