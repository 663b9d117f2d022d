"""What a problem counts for: weights by pass rate, of SC-SDPO (arXiv 2605.27765; docs/method.md 2.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping


def pass_rate_weights(rates: Mapping[str, float]) -> dict[str, float]:
    """sqrt(p (1 - p)) of each problem's pass rate p, over the mean of them, so that a step is as long as before.

    A problem that always passes or never does has none; where that goes for all of them, nothing counts.
    """
    spread = {problem: math.sqrt(rate * (1 - rate)) for problem, rate in rates.items()}
    mean = sum(spread.values()) / max(len(spread), 1)
    return {problem: value / mean if mean else 0.0 for problem, value in spread.items()}
