"""Distillation and GRPO in one loss: blended token by token, or routed rollout by rollout (docs/method.md 2.3).

A rollout that a teacher teaches costs (1 - reward_share) of the distillation and reward_share of GRPO's loss (the
blend of SDPO's paper, arXiv 2601.20802). Which are taught is the batch's to say: all that have a context, or only
failed ones, as SRPO routes them (arXiv 2604.02288); the rest costs GRPO's loss alone.

Invariant: one denominator, all trained tokens, whichever of the two teaches them, so that the share of distillation
falls as fewer rollouts fail.
"""

from __future__ import annotations

from torch import Tensor

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives import distill, grpo
from pmd.services.trainer.training.objectives.loss import Loss, Tokens


def reward_share(taught: bool, settings: TrainSettings) -> float:
    """Share of GRPO's loss in that of a rollout; the rest is distillation where a teacher teaches it, else nothing."""
    return 1.0 if settings.route == "failed" and not taught else settings.reward_share


def of_tokens(tokens: Tokens, settings: TrainSettings) -> Tensor:
    """The loss at each token, shape [N]."""
    loss_N = tokens.reward_N * grpo.of_tokens(tokens, settings)
    if tokens.teacher is None:
        return loss_N
    return loss_N + (1 - tokens.reward_N) * distill.of_tokens(tokens, settings)


LOSS = Loss(reads_teacher=True, trains_all=True, weights=grpo.token_mean_weights, of_tokens=of_tokens)
