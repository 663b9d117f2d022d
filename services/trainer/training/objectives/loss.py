"""What the update asks of a loss: what it reads, how tokens are counted, what one token costs."""

# ruff: noqa: N815 -- axis names on tensors, in fields too

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pmd.services.common.options import TrainSettings


@dataclass(frozen=True)
class Tokens:
    """N completion tokens of a micro-batch, as a loss may read them."""

    student_NV: Tensor
    """Logits at the sampling temperature; differentiable."""
    teacher_NV: Tensor | None
    """The same of the teacher on its own prompt; None for a loss that reads no teacher."""
    now_N: Tensor
    """Log-probabilities of the sampled tokens under the weights of this optimizer step; differentiable unless the
    loss reads a teacher: it then learns from the logits, and the sampled tokens only weigh them."""
    old_N: Tensor
    """The same under the weights at the start of the training step."""
    advantages_N: Tensor
    """Advantage of the token's rollout."""


@dataclass(frozen=True)
class Loss:
    """How credit becomes a number to descend."""

    reads_teacher: bool
    """Whether there is a teacher, and each rollout that is trained has a context for it."""
    weights: Callable[[Sequence[int], Sequence[bool]], list[float]]
    """From completion lengths and what is trained, the weight of a token of each sequence in the batch's mean."""
    of_tokens: Callable[[Tokens, TrainSettings], Tensor]
    """The loss at each token, shape [N], before the trainer-to-sampler ratio."""
