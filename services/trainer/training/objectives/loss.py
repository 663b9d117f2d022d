"""What the update asks of a loss: what it reads, how tokens are counted, what one token costs."""

# ruff: noqa: N802, N815 -- axis names on tensors, in fields too

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pmd.services.common.options import TrainSettings


@dataclass(frozen=True)
class Scores:
    """Logits at the sampling temperature of one model for N tokens, and what is read of them more than once."""

    logits_NV: Tensor
    """A student's are differentiable."""
    logp_NV: Tensor
    """Their log-softmax; no gradient."""

    @classmethod
    def of(cls, logits_NV: Tensor) -> Scores:
        """Scores with these logits."""
        return cls(logits_NV, torch.log_softmax(logits_NV.detach(), -1))

    @cached_property
    def p_NV(self) -> Tensor:
        """Their softmax; no gradient."""
        return self.logp_NV.exp()

    def logps(self, targets_N: Tensor) -> Tensor:
        """Log-probability of each target in nats, [N]; no gradient."""
        return self.logp_NV.gather(-1, targets_N[:, None])[:, 0]

    def sampled(self, targets_N: Tensor) -> Tensor:
        """The same, differentiable in the logits."""
        return -cross_entropy(self.logits_NV, targets_N, reduction="none")

    def entropy(self) -> Tensor:
        """Entropy at each token in nats, [N]; no gradient."""
        return -(self.p_NV * self.logp_NV).sum(-1)


@dataclass(frozen=True)
class Tokens:
    """N completion tokens of a micro-batch, as a loss may read them."""

    student: Scores
    teacher: Scores | None
    """Of the teacher on its own prompt, without gradient; None for a loss that reads no teacher."""
    targets_N: Tensor
    """The sampled tokens."""
    old_N: Tensor
    """Their log-probabilities under the weights at the start of the training step."""
    advantages_N: Tensor
    """Advantage of the token's rollout."""
    reward_N: Tensor
    """Share of GRPO's loss in the token's, where the loss is a blend."""
    confidence_N: Tensor | None = None
    """What distillation counts the token for, beside others; None: all alike."""


@dataclass(frozen=True)
class Loss:
    """How credit becomes a number to descend."""

    reads_teacher: bool
    """Whether there is a teacher, which reads a context of its own."""
    trains_all: bool
    """Whether a rollout without a context is trained."""
    weights: Callable[[Sequence[int], Sequence[bool]], list[float]]
    """From completion lengths and what is trained, the weight of a token of each sequence in the batch's mean."""
    of_tokens: Callable[[Tokens, TrainSettings], Tensor]
    """The loss at each token, shape [N], before the trainer-to-sampler ratio."""
    on_policy: bool = True
    """Whether it is an expectation over the policy's own tokens, which the trainer-to-sampler ratio keeps right."""
