"""Which problems a step draws."""

from __future__ import annotations

from itertools import islice

import pytest

from pmd.gateway.loop.order import step_problems, walk


@pytest.mark.parametrize(("size", "per_step"), [(6, 4), (64, 24), (7, 7), (5, 1), (10, 9)])
def test_problems_come_once_an_epoch_and_never_twice_in_a_step(size: int, per_step: int) -> None:
    problems = tuple(f"p{n}" for n in range(size))
    steps = 4 * size
    drawn = [step_problems(problems, 3, per_step, step) for step in range(1, steps + 1)]
    assert all(len(set(step)) == per_step for step in drawn)
    assert list(islice(walk(problems, 3, per_step), steps)) == drawn
    counts = {p: sum(p in step for step in drawn) for p in problems}
    assert set(counts.values()) == {4 * per_step}
    flat = [p for step in drawn for p in step]
    assert set(flat[:size]) == set(problems), "the first epoch holds every problem"


def test_the_order_of_problems_is_a_function_of_seed_and_step() -> None:
    problems = tuple(f"p{n}" for n in range(20))
    assert step_problems(problems, 3, 4, 9) == step_problems(tuple(problems), 3, 4, 9)
    assert step_problems(problems, 3, 4, 9) != step_problems(problems, 4, 4, 9)


def test_more_problems_a_step_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="3 problems a step, but there are 2"):
        step_problems(("a", "b"), 0, 3, 1)
