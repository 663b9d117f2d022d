"""The GRPO baseline as SDPO's paper runs it (arXiv 2601.20802, Eq. 12, Table 13; docs/method.md 2.2).

Invariants: the advantage is r - mean(group), divided by the group's standard deviation where that is asked for; a
rollout that is masked enters neither its group's mean nor the loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import stdev

import torch
from torch import Tensor

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives.distill import MAX_LOG_RATIO
from pmd.services.trainer.training.objectives.loss import Loss, Tokens

SMALLEST_DEVIATION = 1e-6
"""What is added to a standard deviation that is divided by."""


def group_advantages(
    rewards_S: Sequence[float], groups_S: Sequence[str], counted_S: Sequence[bool], *, normalise: bool = False
) -> list[float]:
    """A_i = r_i - mean of the counted rewards of i's group; 0 for a sequence that is not counted.

    Args:
        normalise: divide by the group's standard deviation, n - 1 in its denominator (GRPO, arXiv 2402.03300).
    """
    totals: dict[str, list[float]] = defaultdict(list)
    for reward, group, counted in zip(rewards_S, groups_S, counted_S, strict=True):
        if counted:
            totals[group].append(reward)
    means = {group: sum(rewards) / len(rewards) for group, rewards in totals.items()}
    scales = {
        group: stdev(rewards) + SMALLEST_DEVIATION if normalise and len(rewards) > 1 else 1.0
        for group, rewards in totals.items()
    }
    return [
        (reward - means[group]) / scales[group] if counted else 0.0
        for reward, group, counted in zip(rewards_S, groups_S, counted_S, strict=True)
    ]


def policy_loss(
    now_N: Tensor, old_N: Tensor, advantage_N: Tensor, *, clip_low: float, clip_high: float, dual_clip: float
) -> Tensor:
    """The clipped surrogate at each token, shape [N], differentiable in `now_N`.

    Args:
        now_N: log-probabilities of the sampled tokens under the weights of this optimizer step.
        old_N: the same under the weights at the start of the training step.
        clip_low: the ratio now/old is not rewarded below 1 - clip_low,
        clip_high: .. nor above 1 + clip_high (the wider upper clip is DAPO's).
        dual_clip: with a negative advantage the loss is at most dual_clip·|A| (dual-clip PPO), so that a token
            whose ratio exploded can't dominate.
    """
    ratio_N = (now_N - old_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss_N = torch.maximum(-advantage_N * ratio_N, -advantage_N * clipped_N)
    return torch.where(advantage_N < 0, torch.minimum(loss_N, -advantage_N * dual_clip), loss_N)


def token_mean_weights(tokens_S: Sequence[int], trained_S: Sequence[bool]) -> list[float]:
    """Weight of a token of each sequence, such that Σ weight·loss is the mean over all trained tokens."""
    total = sum(n for n, trained in zip(tokens_S, trained_S, strict=True) if trained)
    return [1 / max(total, 1) if trained else 0.0 for trained in trained_S]


def of_tokens(tokens: Tokens, settings: TrainSettings) -> Tensor:
    """The loss at each token, shape [N]."""
    return policy_loss(
        tokens.student.sampled(tokens.targets_N),
        tokens.old_N,
        tokens.advantages_N,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
    )


LOSS = Loss(reads_teacher=False, trains_all=True, weights=token_mean_weights, of_tokens=of_tokens)
