"""Speeds of contenders that take turns in one process: what the machine does meanwhile, it does to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def compare(contenders: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens per second of each contender in each round, the first of which warms up; prints best and median.

    Args:
        contenders: each draws, and returns how many tokens it drew.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, draw in contenders.items():
            began = time.perf_counter()
            tokens = draw()
            if turn:
                speeds[name].append(tokens / (time.perf_counter() - began))
    for name, values in speeds.items():
        print(f"{name:12} best {max(values):8.0f} tok/s, median {statistics.median(values):8.0f} tok/s")
    return speeds


def ratio(speeds: Mapping[str, list[float]], ours: str, theirs: str) -> None:
    """Print the ratio of two contenders, round by round."""
    pairs = [a / b for a, b in zip(speeds[ours], speeds[theirs], strict=True)]
    print(f"{ours} / {theirs}: median {statistics.median(pairs):.2f}, from {min(pairs):.2f} to {max(pairs):.2f}")
