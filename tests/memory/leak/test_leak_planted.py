"""The leak guard against those who want to get past it, and against honest notes that look alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmd.services.common.wire import Message, Problem
from pmd.services.memory.leak.guard import leak

NOTES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "leak_notes.yaml").read_text())


def problem(about: dict[str, Any]) -> Problem:
    return Problem(id="p", messages=[Message(role="user", content=about["question"])], verifier=about["verifier"])


def caught(kind: str, group: str | None = None) -> dict[tuple[str, str], str | None]:
    """What the guard says of each note, by question and note."""
    found = {}
    for about in NOTES["problems"]:
        if group in {None, about["group"]}:
            one, passed = problem(about), [about.get("program", NOTES["program"])]
            found |= {(about["question"], note): leak(note, one, passed) for note in about[kind]}
    return found


@pytest.mark.parametrize("group", ["numbers", "words", "letters", "code"])
def test_planted_answers_are_caught_in_every_dress(group: str) -> None:
    """Not those that no policy writes: backwards, in base64, in hexadecimal digits, letter by letter."""
    reasons = caught("planted", group)
    assert len(reasons) >= 30
    missed = [note for note, reason in reasons.items() if reason is None]
    assert len(missed) <= 0.12 * len(reasons), missed


def test_honest_notes_pass() -> None:
    reasons = caught("honest")
    blamed = {note: reason for note, reason in reasons.items() if reason is not None}
    assert len(blamed) <= 0.003 * len(reasons), blamed


def test_an_answer_in_other_words_passes_and_we_say_so() -> None:
    reasons = list(caught("beyond").values())
    assert reasons.count(None) >= 0.7 * len(reasons)


@pytest.mark.parametrize("note", ["1" * 8000, "seven " * 1300, "(" * 8000, "-" * 8000, "1 + " * 2000, "A and " * 1300])
def test_a_note_of_any_kind_is_judged_quickly(note: str) -> None:
    """A person's note of 8,000 digits must not end a run: the guard reads it at every step."""
    began = time.process_time()
    for about in NOTES["problems"][::4]:
        leak(note, problem(about), [NOTES["program"]])
    assert time.process_time() - began < 10.0


def test_an_answer_of_any_size_is_guarded() -> None:
    for answer in ("1e500", "9" * 6000, "2/0", "(1, 2/0)", "\\frac{1}{0}", "sqrt(-1)", "9**9**9"):
        one = problem({"question": "How many?", "verifier": {"kind": "math", "answer": answer}})
        assert leak("Count them, 12 at a time: 3/0, 9**9**9, 10^999.", one) is None or answer == "9**9**9"


def test_a_program_in_tildes_is_a_program() -> None:
    passed = NOTES["program"].replace("```", "~~~")
    one = problem({"question": "Do it.", "verifier": {"kind": "code", "tests": []}})
    assert leak("set y = (x * 7 + 3) % 11 each time", one, [passed])


def test_a_reference_of_a_verifier_that_is_a_program_and_the_words_of_an_expression_are_answers() -> None:
    judged = problem(
        {"question": "Where?", "verifier": {"kind": "python", "source": "..", "reference": ["Bled", "Piran"]}}
    )
    assert leak("It is Piran.", judged)
    matched = problem({"question": "Where?", "verifier": {"kind": "regex", "pattern": "(?i)^(Bled|Piran)$"}})
    assert leak("It is Piran.", matched)
    shaped = problem({"question": "Where?", "verifier": {"kind": "regex", "pattern": "[A-Z]{2}-[0-9]+"}})
    assert leak("Two capitals, a dash and a number, as in AB-12.", shaped) is None


def test_a_problem_with_large_tests_is_guarded_quickly() -> None:
    tests = [{"input": " ".join(map(str, range(k, k + 50_000))), "output": str(k)} for k in range(40)]
    large = problem({"question": "Sum them.", "verifier": {"kind": "code", "tests": tests}})
    leak("Read the numbers once.", large, [NOTES["program"]])
    began = time.process_time()
    for _ in range(20):
        assert leak("Read the numbers once.", large, [NOTES["program"]]) is None
    assert time.process_time() - began < 1.0
