"""Likelihood of the policy's own completions, right or wrong: simple self-distillation (SSD, arXiv 2604.01193).

At the sampling temperature its gradient is nothing in expectation: a policy is already the best model of what it
draws. What it learns comes from drawing otherwise than it models, so `sampling` of the recipe is to have another
temperature than 1, or a `top_p` below it; the loss is taken at temperature 1.
"""

from __future__ import annotations

from torch import Tensor

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives.grpo import token_mean_weights
from pmd.services.trainer.training.objectives.loss import Loss, Scores, Tokens


def of_tokens(tokens: Tokens, settings: TrainSettings) -> Tensor:
    """-log p of each sampled token at temperature 1, shape [N]."""
    return -Scores.of(tokens.student.logits_NV * settings.temperature).sampled(tokens.targets_N)


LOSS = Loss(reads_teacher=False, trains_all=True, weights=token_mean_weights, of_tokens=of_tokens, on_policy=False)
