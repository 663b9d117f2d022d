"""The leak guard's rates on sets of notes over six fields, and the page that states them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.leak import NAMES, counts, table
from pmd.services.common.wire import Message, Problem
from pmd.services.memory.leak.guard import leak


@pytest.mark.parametrize("name", NAMES)
def test_three_of_four_leaks_are_caught_and_hardly_an_honest_note_is_blamed(name: str) -> None:
    found = counts(name)
    caught, blamed = found[True, "all"], found[False, "all"]
    assert caught.notes >= 120
    assert blamed.notes >= 120
    assert caught.stopped >= 0.75 * caught.notes
    assert blamed.stopped <= 0.02 * blamed.notes


def test_the_page_states_the_rates() -> None:
    assert table() in (Path(__file__).resolve().parents[3] / "docs" / "leak.md").read_text()


def exact(question: str, **verifier: object) -> Problem:
    return Problem(id="p", messages=[Message(role="user", content=question)], verifier=verifier)


def test_what_a_passed_attempt_ended_with_is_an_answer_where_the_spec_names_none() -> None:
    one = exact("Give a city on the Adriatic.", kind="regex", pattern="[A-Z][a-z]+")
    passed = ["It has a harbour. <answer>Rovinj</answer>"]
    assert leak("Rovinj has a harbour.", one) is None
    assert leak("Rovinj has a harbour.", one, passed)
    assert leak("Name a harbour town.", one, passed) is None


def test_what_failures_leave_over_is_the_answer() -> None:
    one = exact("Which gas burns?\nA. helium\nB. argon\nC. methane\nD. neon", kind="choice", answer="C", labels="ABCD")
    one = one.model_copy(update={"verifier": {"kind": "choice", "answer": "C", "labels": ["A", "B", "C", "D"]}})
    assert leak("A and D failed.", one) is None
    assert leak("A, B and D failed.", one)
    assert leak("Helium, argon and neon are noble gases.", one)
    assert leak("Helium and argon are noble gases.", one) is None


def test_equal_values_are_one_answer_however_they_are_written() -> None:
    half = exact("Simplify the root.", kind="math", answer="8\\sqrt{2}")
    slope = exact("Differentiate.", kind="math", answer="(2x + 3x^2)e^{3x}")
    assert leak("5 sqrt 2 + 3 sqrt 2 comes out.", half)
    assert leak("7 sqrt 2 is too small.", half) is None
    assert leak("x e^{3x} (2 + 3x)", slope)
    assert leak("e^{3x} (2 + 3x)", slope) is None
