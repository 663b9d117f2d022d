"""Numbers that compare runs: area under the learning curve, levels with their range, paired differences.

Invariants:
- A level is a mean with its range over worlds and has no interval: accuracies crowd at 1, where Student's t covers
  far less than it says and reaches past 1.
- Only differences have an interval, and only paired ones: both methods ran in each world that counts. Worlds differ
  far more than methods do, and the pairing takes that out.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pmd.gateway.views import StepView

_T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 14: 2.145}
"""97.5 % quantiles of Student's t by degrees of freedom."""


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; between table entries the next lower one, which is the wider interval."""
    if freedom < 1:
        return math.inf
    return 1.96 if freedom > 120 else _T_975[max(f for f in _T_975 if f <= freedom)]


@dataclass(frozen=True)
class Level:
    """A mean over worlds with the lowest and the highest of them."""

    mean: float
    low: float
    high: float
    worlds: int

    def __str__(self) -> str:
        if self.worlds < 2:
            return f"{self.mean:z.2f}"
        return f"{self.mean:z.2f} ({self.low:z.2f} to {self.high:z.2f})"


def level(values: Sequence[float]) -> Level:
    """Mean and range of one value a world.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("a level needs the value of at least one world")
    return Level(statistics.fmean(values), min(values), max(values), len(values))


FEWEST = 3
"""Worlds below which a difference has no interval: two differences that happen to be alike would have a narrow one."""


@dataclass(frozen=True)
class Difference:
    """A mean of differences world by world, with the half-width of its 95 % interval (Student's t over worlds)."""

    mean: float
    half_width: float
    """Infinite for fewer worlds than `FEWEST`: they say nothing about others."""
    above: int
    """Worlds in which the difference is positive."""
    below: int
    worlds: int

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """What the interval supports: 1 above, -1 below, 0 when it includes zero."""
        if abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        if self.worlds < FEWEST:
            return f"{self.mean:+z.2f}"
        digits = 2 if abs(self.mean) + self.half_width >= 0.05 else 3  # "0.00 ± 0.00" would read as certainty
        return f"{self.mean:+z.{digits}f} ± {self.half_width:.{digits}f}"


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Mean of a - b over the worlds that both ran in, in the same order.

    Raises:
        ValueError: without worlds, or with different numbers of them.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if not differences:
        raise ValueError("a paired difference needs at least one world that both ran in")
    count = len(differences)
    enough = count >= FEWEST
    return Difference(
        statistics.fmean(differences),
        t_quantile(count - 1) * statistics.stdev(differences) / math.sqrt(count) if enough else math.inf,
        sum(x > 0 for x in differences),
        sum(x < 0 for x in differences),
        count,
    )


Curve = list[tuple[int, float]]
"""(step, pass rate) at every evaluation."""


def curve(steps: Sequence[StepView], split: str) -> Curve:
    """The learning curve of a run on one split."""
    return [(s.step, s.evaluation[split].pass_rate) for s in steps if split in s.evaluation]


def area(points: Curve) -> float:
    """Mean height of a learning curve (trapezoid area over its length); one point is its own mean."""
    if len(points) < 2:
        return points[0][1] if points else math.nan
    total = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))
    return total / (points[-1][0] - points[0][0])
