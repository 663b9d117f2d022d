"""The GRPO baseline as SDPO's paper runs it (arXiv 2601.20802, Eq. 12, Table 13; docs/method.md 2.2).

Invariants: the advantage is r - mean(group) and is never divided by a standard deviation; no KL term, no
entropy bonus; a rollout that is masked enters neither its group's mean nor the loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives.distill import MAX_LOG_RATIO
from pmd.services.trainer.training.objectives.loss import Loss, Tokens


def group_advantages(rewards_S: Sequence[float], groups_S: Sequence[str], counted_S: Sequence[bool]) -> list[float]:
    """A_i = r_i - mean of the counted rewards of i's group; 0 for a sequence that is not counted."""
    totals: dict[str, list[float]] = defaultdict(list)
    for reward, group, counted in zip(rewards_S, groups_S, counted_S, strict=True):
        if counted:
            totals[group].append(reward)
    means = {group: sum(rewards) / len(rewards) for group, rewards in totals.items()}
    return [
        reward - means[group] if counted else 0.0
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


def _of_tokens(tokens: Tokens, settings: TrainSettings) -> Tensor:
    return policy_loss(
        -cross_entropy(tokens.student.logits_NV, tokens.targets_N, reduction="none"),
        tokens.old_N,
        tokens.advantages_N,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
    )


LOSS = Loss(reads_teacher=False, weights=token_mean_weights, of_tokens=_of_tokens)
