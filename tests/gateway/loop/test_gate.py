"""The teacher-lead gate, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import pytest

from pmd.gateway.loop.gate import OPEN, Lead, follow, masked_problems, pass_rates, probe_prompts, tally


def lead(history: Iterable[tuple[float, float]]) -> Lead:
    """The reading after steps with these (teacher, student) pass rates."""
    return reduce(lambda before, now: follow(before, *now), history, OPEN)


def test_before_any_probe_the_gate_is_open() -> None:
    assert lead([]).lr_scale == 1.0


def test_an_empty_memory_does_not_close_the_gate_at_once() -> None:
    assert lead([(0.0, 0.0)]).lr_scale == 1.0
    assert lead([(0.0, 0.0)] * 20).lr_scale < 0.05


def test_running_means_keep_four_fifths() -> None:
    reading = lead([(0.5, 0.5), (0.0, 1.0)])
    assert reading.teacher == pytest.approx(0.8 * (0.8 * 1.0 + 0.2 * 0.5))
    assert reading.student == pytest.approx(0.8 * (0.2 * 0.5) + 0.2)


@pytest.mark.parametrize(("teacher", "student", "scale"), [(0.9, 0.1, 1.0), (0.3, 0.9, 0.0), (0.6, 0.5, 0.3)])
def test_the_scale_is_three_times_the_settled_lead_between_0_and_1(
    teacher: float, student: float, scale: float
) -> None:
    assert lead([(teacher, student)] * 60).lr_scale == pytest.approx(scale, abs=1e-4)


def test_both_rates_are_read_on_the_probed_problems_only() -> None:
    student = {"a": [4, 8], "b": [8, 8], "never probed": [8, 8]}
    assert pass_rates(student, {"a": [1, 1], "b": [0, 1]}) == (0.5, 0.75)


def test_a_problem_is_masked_when_its_probe_fails_while_a_quarter_of_its_rollouts_pass() -> None:
    student = {"knows": [2, 8], "barely": [1, 8], "helped": [8, 8], "few judged": [1, 4]}
    probe = {"knows": [0, 1], "barely": [0, 1], "helped": [1, 1], "few judged": [0, 1]}
    assert masked_problems(student, probe) == ("few judged", "knows")


def test_law_5_infrastructure_failures_count_neither_way() -> None:
    rows = [
        {"problem_id": "a", "outcome": "passed"},
        {"problem_id": "a", "outcome": "infra_error"},
        {"problem_id": "b", "outcome": "infra_error"},
    ]
    counts = tally(rows)
    assert counts == {"a": [1, 1], "b": [0, 0]}
    assert masked_problems({"b": [8, 8]}, counts) == ()
    assert pass_rates({"b": [8, 8]}, {"b": [0, 0]}) is None
    assert pass_rates({"a": [0, 0]}, {"a": [1, 1]}) is None


def test_the_probe_takes_the_first_rollout_with_context_of_each_problem() -> None:
    rows = [
        {"problem_id": "a", "prompt_id": "a#0", "has_context": False},
        {"problem_id": "a", "prompt_id": "a#1", "has_context": True},
        {"problem_id": "a", "prompt_id": "a#2", "has_context": True},
        {"problem_id": "b", "prompt_id": "b#0", "has_context": False},
    ]
    assert probe_prompts(rows) == ["a#1"]
