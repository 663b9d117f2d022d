"""The texts that the base learns from: rendered by the files a run uses, and right by their own rule."""

from __future__ import annotations

import random
from typing import Any

import jinja2
import pytest

from pmd.examples.pocket.corpus import draw_text
from pmd.examples.pocket.drills import recall_labels, recall_notes
from pmd.examples.pocket.reflecting import MODES, abstract_text, reflect_text, shared_rules
from pmd.examples.pocket.solving import MIXED, Mix, solve_text
from pmd.examples.pocket.wording import PROMPTS, plan_of, render, strategy
from pmd.examples.pocket.world import KINDS, Family, Procedure

EMPTY: dict[str, Any] = {
    "strategies": [],
    "lessons": [],
    "behaviors": [],
    "experiences": [],
    "solution": None,
    "feedback": None,
}


@pytest.mark.parametrize("problem", ["Write solve(a).", "two\nlines", "ends with a break\n", "{{ braces }} & <tags>"])
def test_a_teacher_without_notes_reads_exactly_the_problem(problem: str) -> None:
    assert render("teacher", problem=problem, **EMPTY) == problem


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("strategies", ["zor-mil: rotate then add 3."], "Strategy: zor-mil: rotate then add 3."),
        ("lessons", ["zor-mil: not keep then add 1."], "Lesson: zor-mil: not keep then add 1."),
        ("behaviors", ["every zor begins with rotate."], "Behavior: every zor begins with rotate."),
        (
            "experiences",
            [{"text": "Plan zor-mil: keep then add 1.", "passed": False, "feedback": "no"}],
            "Failed: Plan zor-mil: keep",
        ),
        (
            "experiences",
            [{"text": "Plan zor-mil: keep then add 1.", "passed": True, "feedback": ""}],
            "Passed: Plan zor-mil: keep",
        ),
        (
            "solution",
            "Plan zor-mil: keep then add 1.\n```python\n```",
            "Solution: Plan zor-mil: keep then add 1.\n```python\n```\n",
        ),
        ("feedback", "Input: [1]\nOutput: [2]\nExpected: [3]", "Feedback: Input: [1]\nOutput: [2]\nExpected: [3]\n"),
    ],
)
def test_every_kind_of_note_is_rendered_after_the_problem(variable: str, value: Any, line: str) -> None:
    prompt = render("teacher", problem="Problem.", **{**EMPTY, variable: value})
    assert prompt.startswith("Problem.\n\n")
    assert line in prompt
    assert prompt.endswith("\nNow solve it.")


def test_a_missing_variable_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="lessons"):
        render("teacher", **{k: v for k, v in EMPTY.items() if k != "lessons"}, problem="Problem.")


def test_there_are_exactly_three_prompts() -> None:
    assert sorted(path.name for path in PROMPTS.iterdir()) == ["abstract.jinja", "reflect.jinja", "teacher.jinja"]


def test_every_text_is_right_by_its_own_rule() -> None:
    rng = random.Random(0)
    for text in (draw_text(rng) for _ in range(2000)):
        assert text.accept(text.completion), text


def test_texts_are_a_function_of_the_seed() -> None:
    first, second = ([draw_text(rng) for _ in range(50)] for rng in (random.Random(1), random.Random(1)))
    assert [(t.prompt, t.completion) for t in first] == [(t.prompt, t.completion) for t in second]


@pytest.mark.parametrize("kind", KINDS)
def test_a_solution_is_copied_whatever_the_notes_say(kind: Any) -> None:
    rng = random.Random(2)
    for _ in range(200):
        text = solve_text(rng, Mix(solution=1, strategy=1, first_rule=1, second_rule=1, truthful=0.0), kind, "hard")
        assert f"Solution: {text.completion}\n" in text.prompt


def test_nothing_shown_is_both_advised_and_forbidden() -> None:
    rng = random.Random(3)
    for _ in range(300):
        text = solve_text(rng, Mix(strategy=1, forbid=1), "code", "hard")
        plan = plan_of(text.completion)
        assert f": {plan}." in text.prompt
        assert f"not {plan}." not in text.prompt


def test_a_slip_carries_no_loss_up_to_the_words_that_slipped() -> None:
    rng = random.Random(4)
    for _ in range(100):
        text = solve_text(rng, Mix(strategy=1, slip=1), "code", "hard")
        plan = plan_of(text.completion)
        assert plan is not None
        line = text.completion.partition("\n")[0]
        assert text.completion[: text.skip] in (line.partition(" then")[0], line.removesuffix("."))


def test_advice_of_the_mixture_meets_in_all_combinations() -> None:
    rng = random.Random(5)
    heads = ("Behavior:", "Lesson:", "Strategy:", "Solution:", "Feedback:", "Passed:", "Failed:")
    prompts = [solve_text(rng, MIXED, "code", "hard").prompt for _ in range(2000)]
    for one in heads:
        for other in heads:
            assert any(one in prompt and other in prompt for prompt in prompts), (one, other)


@pytest.mark.parametrize("mode", MODES)
def test_reflection_never_keeps_and_forbids_the_same_procedure(mode: Any) -> None:
    rng = random.Random(6)
    for _ in range(500):
        lines = reflect_text(rng, mode, "code", "hard").completion.split("\n")
        kept = {line.split(": ", 2)[2] for line in lines if line.startswith("Strategy: ")}
        avoided = {line.split(": not ")[1] for line in lines if line.startswith("Lesson: ")}
        assert not kept & avoided
        assert len(kept) <= 2
        assert len(avoided) <= 2
        assert kept or mode == "failures"


ROTATE, KEEP = Procedure("rotate", 3), Procedure("keep", 3)
SECONDS = ("mil", "rak", "jun", "pol", "sed")


@pytest.mark.parametrize(
    ("agreeing", "against", "written"),
    [(3, 0, True), (2, 0, False), (2, 1, True), (3, 2, True), (2, 2, False), (1, 2, False), (4, 1, True)],
)
def test_a_rule_needs_three_notes_and_sixty_percent(agreeing: int, against: int, written: bool) -> None:
    notes = [(Family("zor", second), ROTATE) for second in SECONDS[:agreeing]]
    notes += [
        (Family("zor", second), Procedure(word, 3)) for second, word in zip(SECONDS, ("keep", "fold"), strict=False)
    ][:against]
    assert ("every zor begins with rotate." in shared_rules(notes)) == written


def test_first_symbols_are_ruled_before_second_ones() -> None:
    notes = [(Family("zor", "mil"), ROTATE)] * 3 + [(Family("kel", "mil"), KEEP)] * 4
    assert shared_rules(notes) == ["every kel begins with keep.", "every mil ends with add 3."]


def test_abstraction_asks_for_at_most_two_rules_and_takes_them_in_any_order() -> None:
    rng = random.Random(8)
    texts = [abstract_text(rng, shape, "hard") for shape in ("first", "second", "both", "family", "mixed") * 60]
    rules = [text.completion.split("\n") for text in texts]
    assert {len(lines) for lines in rules} == {1, 2}
    for text, lines in zip(texts, rules, strict=True):
        assert text.accept("\n".join(reversed(lines)))
        assert not text.accept("\n".join([*lines, "Behavior: every zor begins with fold and keep."]))


def test_abstraction_prompts_hold_one_note_an_insight() -> None:
    rng = random.Random(7)
    text = abstract_text(rng, "first", "hard")
    assert 3 <= text.prompt.count("\nNote: ") <= 12
    both = render("abstract", insights=[{"strategies": [strategy(Family("zor", "mil"), p) for p in (ROTATE, KEEP)]}])
    assert "Note: zor-mil: rotate then add 3. zor-mil: keep then add 3.\n" in both


def test_drills_ask_for_what_stands_in_the_prompt() -> None:
    rng = random.Random(9)
    for _ in range(100):
        notes = recall_notes(rng, "hard")
        for line in notes.completion.split("\n"):
            assert f"Strategy: {line.removeprefix('Plan ')}\n" in notes.prompt
        labels = recall_labels(rng, "hard")
        asked = labels.prompt.rpartition("Recall ")[2].removesuffix(".").split(", ")
        found = labels.completion.removesuffix(".").split(", ")
        assert [option.partition(" ")[0] for option in found] == asked
        assert all(option in labels.prompt for option in found)
