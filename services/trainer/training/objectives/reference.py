"""A KL term that holds the policy to reference weights (GRPO, arXiv 2402.03300, Eq. 4; docs/method.md 2.4)."""

from __future__ import annotations

from torch import Tensor

from pmd.services.trainer.training.objectives.distill import MAX_LOG_RATIO


def reference_kl(now_N: Tensor, reference_N: Tensor) -> Tensor:
    """The k3 estimator r - log r - 1 of KL(policy‖reference), r = reference / policy; [N], differentiable in `now_N`.

    Args:
        now_N: log-probabilities of the sampled tokens by the policy, in nats.
        reference_N: the same by the reference on the same prompt.
    """
    gap_N = (reference_N - now_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return gap_N.exp() - gap_N - 1
