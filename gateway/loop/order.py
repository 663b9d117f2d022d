"""Which problems a step practises: a seeded permutation an epoch, carried over the ends of epochs.

Invariants: a pure function of the problems, the seed and the step; every problem is drawn once an epoch;
no problem occurs twice in a step.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator


def walk(problems: tuple[str, ...], seed: int, per_step: int) -> Iterator[tuple[str, ...]]:
    """The problems of each step, from step 1 on, without an end.

    A step that reaches over the end of an epoch takes the first problems of the next one that it does not hold
    yet; those it passed over come next.

    Raises:
        ValueError: when a step asks for more problems than there are.
    """
    if not 1 <= per_step <= len(problems):
        raise ValueError(f"{per_step} problems a step, but there are {len(problems)}")
    epoch = 0
    waiting: list[str] = []
    at = 0
    while True:
        drawn = waiting[at : at + per_step]
        at += per_step
        if len(drawn) < per_step:
            fresh = random.Random(f"problems/{seed}/{epoch}").sample(problems, len(problems))
            epoch += 1
            held = set(drawn)
            added = [problem for problem in fresh if problem not in held][: per_step - len(drawn)]
            drawn += added
            taken = set(added)
            waiting, at = [problem for problem in fresh if problem not in taken], 0
        yield tuple(drawn)


@functools.lru_cache(maxsize=1024)
def step_problems(problems: tuple[str, ...], seed: int, per_step: int, step: int) -> tuple[str, ...]:
    """The problems of `step`, which counts from 1.

    The walk starts at step 1 each time, which costs less than a millisecond a thousand problems and needs no state;
    who asks for many steps walks once.

    Raises:
        ValueError: when a step asks for more problems than there are.
    """
    return next(itertools.islice(walk(problems, seed, per_step), step - 1, None))
