"""Scores of a set of verdicts: avg@n and pass@k, per split.

Invariant: an `infra_error` says nothing about the policy, so it enters no score (Law 5).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import comb

from pmd.services.common.requests import SplitScore
from pmd.services.common.wire import Outcome


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that one of `k` of `n` attempts passes, when `c` of them do: 1 - C(n-c, k) / C(n, k)."""
    return 1.0 - comb(n - c, k) / comb(n, k)


def split_scores(judged: Iterable[tuple[str, str, Outcome, float]]) -> dict[str, SplitScore]:
    """Scores per split of (split, problem id, outcome, reward).

    pass@k is a mean over the problems with at least k judged rollouts, for k = 1, 2, 4, .. up to the most that a
    problem has.
    """
    outcomes: dict[str, dict[str, list[tuple[bool, float]]]] = defaultdict(lambda: defaultdict(list))
    for split, problem, outcome, reward in judged:
        if outcome is not Outcome.INFRA_ERROR:
            outcomes[split][problem].append((outcome is Outcome.PASSED, reward))
    return {split: _score(list(problems.values())) for split, problems in outcomes.items()}


def _score(problems: list[list[tuple[bool, float]]]) -> SplitScore:
    counts = [(len(judged), sum(passed for passed, _ in judged)) for judged in problems]
    pass_at: dict[int, float] = {}
    k = 1
    while any(n >= k for n, _ in counts):
        values = [pass_at_k(n, c, k) for n, c in counts if n >= k]
        pass_at[k] = sum(values) / len(values)
        k *= 2
    return SplitScore(
        problems=len(counts),
        rollouts=sum(n for n, _ in counts),
        pass_rate=sum(c / n for n, c in counts) / len(counts),
        pass_at=pass_at,
        reward=sum(sum(reward for _, reward in judged) / len(judged) for judged in problems) / len(problems),
    )
