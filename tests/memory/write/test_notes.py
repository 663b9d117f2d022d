"""Answers of models as notes: what a person would read, no more and no less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pmd.services.memory.write.free import circles
from pmd.services.memory.write.notes import Insight, InvalidNotes, answer_schema, parse_behaviors, parse_insight

OUTPUTS = [
    pytest.param(output, id=f"{path.stem}: {output['about']}")
    for path in sorted((Path(__file__).parent / "outputs").glob("*.yaml"))
    for output in yaml.safe_load(path.read_text())
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_answer_is_read_as_a_person_reads_it(output: dict[str, Any]) -> None:
    rules = output.get("asks") == "behavior"
    if output.get("invalid"):
        with pytest.raises(InvalidNotes):
            (parse_behaviors if rules else parse_insight)(output["says"], 2, "json")
        return
    if rules:
        told = parse_behaviors(output["says"], 2, "json")
        assert list(told.notes) == output.get("behaviors", [])
    else:
        read = parse_insight(output["says"], 2, "json")
        assert list(read.notes.strategies) == output.get("strategies", [])
        assert list(read.notes.lessons) == output.get("lessons", [])
        told = read  # type: ignore[assignment]
    assert [why for why, _ in told.dropped] == output.get("dropped", [])


@given(
    st.text(max_size=400)
    | st.lists(
        st.sampled_from(["{", "[", '"strategies":', '"a"', ",", "]", "}", "\n", "- x", "```", "Strategy:", "**"])
    ).map("".join)
)
def test_any_answer_is_read_or_invalid(text: str) -> None:
    try:
        read = parse_insight(text, 2, "json").notes
    except InvalidNotes:
        return
    assert all(note.strip() for note in (*read.strategies, *read.lessons))


def test_hostile_answers_are_read_in_no_time() -> None:
    for text in (
        '{"strategies":' * 20_000,
        "[" * 100_000,
        '"strategies": "' + "\\" * 100_000,
        "- " * 50_000,
        "**" * 50_000,
    ):
        with pytest.raises(InvalidNotes):
            parse_insight(text, 2, "json")


def test_a_schema_asks_for_each_kind_within_the_budget() -> None:
    schema = answer_schema("strategy", "lesson", budget=2)
    assert schema["required"] == ["strategies", "lessons"]
    assert schema["properties"]["lessons"] == {"type": "array", "items": {"type": "string"}, "maxItems": 2}


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("very very carefully", False),
        ("b b b b", True),
        ("1 1 1 1 1", False),
        ("a b c d a b c d", True),
        ("a b a b", False),
    ],
)
def test_circles_are_what_no_writer_repeats(text: str, circle: bool) -> None:
    assert circles(text) == circle


def test_lines_are_labelled_and_nothing_else_is_a_note() -> None:
    text = "Sure!\n- Strategy: rotate, then add 3.\n2. ignored\n**Lesson**: adding first fails.\nLesson: x\nLesson: y"
    read = parse_insight(text, 2, "lines")
    assert read.notes == Insight(("rotate, then add 3.",), ("adding first fails.", "x"))
    assert [why for why, _ in read.dropped] == ["outside the notes", "outside the notes", "beyond the budget"]


def test_in_lines_none_is_an_answer_and_prose_is_not() -> None:
    assert parse_behaviors("None.", 2, "lines").notes == ()
    for text in ("I can't tell.", "Strategy 1: rotate", '{"behaviors": ["rotate"]}', "Strategy: rotate"):
        with pytest.raises(InvalidNotes):
            parse_behaviors(text, 2, "lines")


@pytest.mark.parametrize("circle", ["rotate rotate then add 3.", "every zor begins every zor begins with rotate."])
def test_in_lines_running_in_circles_is_no_note(circle: str) -> None:
    with pytest.raises(InvalidNotes):
        parse_insight(f"Strategy: {circle}", 2, "lines")
    fine = "zor-zor: add 3 3 times, then rotate."
    assert parse_insight(f"Strategy: {circle}\nStrategy: {fine}", 2, "lines").notes.strategies == (fine,)
