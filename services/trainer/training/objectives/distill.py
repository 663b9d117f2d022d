"""The SDPO / PMD distillation objective (SDPO: arXiv 2601.20802; PMD: arXiv 2607.01480; docs/method.md 2.1).

Invariants:
- No gradient reaches the teacher, the importance weights or the choice of the top-k tokens.
- alpha 0 is KL(T‖S), alpha 1 is KL(S‖T), both unscaled; between lies the generalised Jensen-Shannon divergence
  (1-alpha) KL(S‖M) + alpha KL(T‖M) with M = (1-alpha) S + alpha T.
- Top-k distributions are compared on the *student's* k tokens, with the normaliser of the full vocabulary when
  the tail is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives.loss import Loss, Scores, Tokens

MAX_LOG_HEAD = -1e-7
"""Upper clamp of log Σp over the k tokens, so that the tail keeps a finite log-probability."""

MAX_LOG_RATIO = 20.0
"""Clamp of log importance ratios before exp."""


def token_divergence(
    student: Scores, teacher: Scores, *, alpha: float, top_k: int | None = None, tail: bool = True
) -> Tensor:
    """Divergence between student and teacher at each token, differentiable in the student's logits.

    Args:
        alpha: 0 forward KL(T‖S), 1 reverse KL(S‖T), between generalised Jensen-Shannon.
        top_k: compare only the student's k most likely tokens; None compares the full vocabulary.
        tail: with `top_k`, one more category holds the rest of the vocabulary; else renormalise over the k.

    Returns:
        Nats per token, shape [N].
    """
    if top_k is not None and top_k < student.logits_NV.shape[-1]:
        index_NK = student.logits_NV.detach().topk(top_k, dim=-1).indices
        student, teacher = (Scores.of(_head(each, index_NK, tail)) for each in (student, teacher))
    loss_N: Tensor = _Divergence.apply(student.logits_NV, student, teacher, alpha)  # type: ignore[no-untyped-call]
    return loss_N


def _head(scores: Scores, index_NK: Tensor, tail: bool) -> Tensor:
    """Logits of the distribution over the indexed tokens and, with `tail`, of the rest as one category."""
    if not tail:
        return scores.logits_NV.gather(-1, index_NK)
    logp_NK: Tensor = _LogProbs.apply(scores.logits_NV, scores, index_NK)  # type: ignore[no-untyped-call]
    log_head_N1 = logp_NK.logsumexp(-1, keepdim=True).clamp(max=MAX_LOG_HEAD)
    return torch.cat([logp_NK, torch.log(-torch.expm1(log_head_N1))], dim=-1)


class _LogProbs(torch.autograd.Function):
    """Log-probabilities of K tokens a row; the gradient is one pass over the vocabulary, where autograd makes three.

    Takes the logits once more, apart: what it is differentiated by.
    """

    @staticmethod
    def forward(ctx: Any, _: Tensor, scores: Scores, index_NK: Tensor) -> Tensor:
        ctx.save_for_backward(scores.p_NV, index_NK)
        return scores.logp_NV.gather(-1, index_NK)

    @staticmethod
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None, None]:
        p_NV, index_NK = ctx.saved_tensors
        grad_NV = p_NV * -grad_NK.sum(-1, keepdim=True)
        return grad_NV.scatter_add_(-1, index_NK, grad_NK), None, None


class _Divergence(torch.autograd.Function):
    """Divergence between softmax(student) and softmax(teacher) with its gradient in closed form.

    The gradient with respect to the student's log-probabilities s is, up to a multiple of S that the softmax
    removes, S (s - t) for reverse KL, -T for forward KL and (1-alpha) S (s - m) for Jensen-Shannon. Writing it
    down leaves one [N, C] tensor to keep, where autograd keeps six and runs over them again.

    Takes the student's logits once more, apart: what it is differentiated by.
    """

    @staticmethod
    def forward(ctx: Any, _: Tensor, student: Scores, teacher: Scores, alpha: float) -> Tensor:
        s, t, s_p, t_p = student.logp_NV, teacher.logp_NV, student.p_NV, teacher.p_NV
        if alpha == 0.0:
            ctx.save_for_backward(s_p - t_p)
            return (t_p * (t - s)).sum(-1)
        if alpha == 1.0:
            gap = s_p * (s - t)
            loss_N = gap.sum(-1)
        else:
            # The clamp keeps 0 * log 0 at zero where both probabilities underflow.
            m = torch.lerp(s_p, t_p, alpha).clamp_(min=torch.finfo(s.dtype).tiny).log_()
            gap = s_p * (s - m) * (1 - alpha)
            loss_N = gap.sum(-1) + alpha * (t_p * (t - m)).sum(-1)
        ctx.save_for_backward(torch.addcmul(gap, s_p, gap.sum(-1, keepdim=True), value=-1.0))
        return loss_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_NC,) = ctx.saved_tensors
        return grad_NC * grad_N.unsqueeze(-1), None, None, None


def clipped_ratio(numerator_N: Tensor, denominator_N: Tensor, clip: float) -> Tensor:
    """min(exp(numerator - denominator), clip) of log-probabilities; no gradient.

    Two such weights multiply a token's loss: importance sampling, now / old, for tokens drawn before this
    optimizer step, clipped at `is_clip`; and truncated importance sampling, old / sampler, for the difference
    between training and rollout engine, clipped at `tis_clip`.
    """
    log_ratio_N = (numerator_N - denominator_N).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio_N.exp().clamp(max=clip)


def sequence_mean_weights(tokens_S: Sequence[int], trained_S: Sequence[bool]) -> list[float]:
    """Weight of a token of each sequence, such that Σ weight·loss is the mean over sequences of token means.

    Sequences that are not trained count 0 in the sum and 1 in the number of sequences (SDPO's code at
    micro-batch size 1, not the Σ|y| normaliser of the paper's Eq. 12).
    """
    return [1 / (n * len(tokens_S)) if trained and n else 0.0 for n, trained in zip(tokens_S, trained_S, strict=True)]


def sampled_divergence(student: Scores, teacher: Scores, targets_N: Tensor) -> Tensor:
    """sg(log S - log T) log S of the token that was drawn, [N] (TRL's `sampled_token`; docs/method.md 2.1).

    Its gradient is, in expectation over the student's tokens, that of the reverse KL; its value means nothing.
    """
    gap_N = student.logps(targets_N) - teacher.logps(targets_N)
    return gap_N * student.sampled(targets_N)


def confidences(entropy_N: Tensor, beta: float) -> Tensor:
    """exp(-beta H) of the teacher's entropies, [N], before the mean is taken out (SRPO, arXiv 2604.02288)."""
    return torch.exp(-beta * entropy_N)


def of_tokens(tokens: Tokens, settings: TrainSettings) -> Tensor:
    """The loss at each token, shape [N]."""
    assert tokens.teacher is not None  # noqa: S101 -- it reads a teacher
    if settings.divergence == "sampled_token":
        loss_N = sampled_divergence(tokens.student, tokens.teacher, tokens.targets_N)
    else:
        loss_N = token_divergence(
            tokens.student,
            tokens.teacher,
            alpha=settings.divergence_alpha,
            top_k=settings.top_k,
            tail=settings.tail,
        )
    if tokens.confidence_N is not None:
        loss_N = loss_N * tokens.confidence_N
    return loss_N * clipped_ratio(tokens.student.logps(tokens.targets_N), tokens.old_N, settings.is_clip)


LOSS = Loss(reads_teacher=True, trains_all=False, weights=sequence_mean_weights, of_tokens=of_tokens)
