"""The policy's entropy as a term of the loss: what pays for it (docs/method.md 2.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pmd.services.trainer.training.objectives.loss import Scores


def entropy(student: Scores) -> Tensor:
    """Entropy at each token in nats, [N], differentiable in the student's logits."""
    entropy_N: Tensor = _Entropy.apply(student.logits_NV, student)  # type: ignore[no-untyped-call]
    return entropy_N


class _Entropy(torch.autograd.Function):
    """Its gradient in closed form: -p (log p + H).

    Takes the logits once more, apart: what it is differentiated by.
    """

    @staticmethod
    def forward(ctx: Any, _: Tensor, student: Scores) -> Tensor:
        entropy_N = student.entropy()
        ctx.save_for_backward(student.p_NV * (student.logp_NV + entropy_N.unsqueeze(-1)))
        return entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None]:
        (grad_NV,) = ctx.saved_tensors
        return grad_NV * -grad_N.unsqueeze(-1), None
