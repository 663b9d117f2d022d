"""Numbers that compare runs: area under the learning curve, means with 95 % intervals, paired differences.

Intervals are Student's t over seeds. Methods that ran on the same seeds are compared by the differences seed
by seed: worlds differ far more than methods do, and the pairing takes that out.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pmd.gateway.views import StepView

_T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 14: 2.145}
"""97.5 % quantiles of Student's t by degrees of freedom."""


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; between table entries the next lower one, which is the wider interval."""
    if freedom < 1:
        return math.inf
    return 1.96 if freedom > 120 else _T_975[max(f for f in _T_975 if f <= freedom)]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half-width of its 95 % interval."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        if self.n < 2:
            return f"{self.mean:z.2f}"
        return f"{self.mean:z.2f} ± {self.half_width:.2f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("an estimate needs at least one value")
    if len(values) == 1:
        return Estimate(values[0], math.inf, 1)
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), t_quantile(len(values) - 1) * spread, len(values))


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Mean of a - b over the seeds that both ran on, in the same order."""
    return estimate([x - y for x, y in zip(a, b, strict=True)])


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
