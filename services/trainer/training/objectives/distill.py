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
from torch.nn.functional import cross_entropy

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives.loss import Loss, Tokens

MAX_LOG_HEAD = -1e-7
"""Upper clamp of log Σp over the k tokens, so that the tail keeps a finite log-probability."""

MAX_LOG_RATIO = 20.0
"""Clamp of log importance ratios before exp."""

CHUNK_ELEMENTS = 1 << 18
"""Elements of a logit matrix that are worked on at once: 1 MiB of fp32 stays in a core's cache, and the
temporaries of a 150k vocabulary stay small."""


def token_divergence(
    student_NV: Tensor, teacher_NV: Tensor, *, alpha: float, top_k: int | None = None, tail: bool = True
) -> Tensor:
    """Divergence between student and teacher at each token, differentiable in the student.

    Args:
        student_NV: logits, already divided by the sampling temperature.
        teacher_NV: logits of the same tokens under the teacher's prompt, likewise divided.
        alpha: 0 forward KL(T‖S), 1 reverse KL(S‖T), between generalised Jensen-Shannon.
        top_k: compare only the student's k most likely tokens; None compares the full vocabulary.
        tail: with `top_k`, one more category holds the rest of the vocabulary; else renormalise over the k.

    Returns:
        Nats per token, shape [N].
    """
    teacher_NV = teacher_NV.detach()
    if top_k is None or top_k >= student_NV.shape[-1]:
        return _divergence(student_NV, teacher_NV, alpha)
    index_NK = student_NV.detach().topk(top_k, dim=-1).indices
    return _divergence(_head(student_NV, index_NK, tail), _head(teacher_NV, index_NK, tail), alpha)


def _head(logits_NV: Tensor, index_NK: Tensor, tail: bool) -> Tensor:
    """Logits of the distribution over the indexed tokens and, with `tail`, of the rest as one category."""
    head_NK = logits_NV.gather(-1, index_NK)
    if not tail:
        return head_NK
    logp_NK = head_NK - logits_NV.logsumexp(-1, keepdim=True)
    log_head_N1 = logp_NK.logsumexp(-1, keepdim=True).clamp(max=MAX_LOG_HEAD)
    return torch.cat([logp_NK, torch.log(-torch.expm1(log_head_N1))], dim=-1)


def _divergence(student_NC: Tensor, teacher_NC: Tensor, alpha: float) -> Tensor:
    loss_N: Tensor = _Divergence.apply(student_NC, teacher_NC, alpha)  # type: ignore[no-untyped-call]
    return loss_N


class _Divergence(torch.autograd.Function):
    """Divergence between softmax(student) and softmax(teacher) with its gradient in closed form.

    The gradient with respect to the student's log-probabilities s is, up to a multiple of S that the softmax
    removes, S (s - t) for reverse KL, -T for forward KL and (1-alpha) S (s - m) for Jensen-Shannon. Writing it
    down leaves one [N, C] tensor to keep, where autograd keeps six and runs over them again.
    """

    @staticmethod
    def forward(ctx: Any, student_NC: Tensor, teacher_NC: Tensor, alpha: float) -> Tensor:
        n, c = student_NC.shape
        loss_N = torch.empty(n, dtype=student_NC.dtype, device=student_NC.device)
        grad_NC = torch.empty_like(student_NC)
        rows = max(1, CHUNK_ELEMENTS // c)
        for i in range(0, n, rows):
            chunk = slice(i, i + rows)
            s = torch.log_softmax(student_NC[chunk], -1)
            t = torch.log_softmax(teacher_NC[chunk], -1)
            s_p, t_p = s.exp(), t.exp()
            if alpha == 0.0:
                loss_N[chunk] = (t_p * (t - s)).sum(-1)
                torch.sub(s_p, t_p, out=grad_NC[chunk])
                continue
            if alpha == 1.0:
                gap = s_p * (s - t)
                loss_N[chunk] = gap.sum(-1)
            else:
                # The clamp keeps 0 * log 0 at zero where both probabilities underflow.
                m = torch.lerp(s_p, t_p, alpha).clamp_(min=torch.finfo(s.dtype).tiny).log_()
                gap = s_p * (s - m) * (1 - alpha)
                loss_N[chunk] = gap.sum(-1) + alpha * (t_p * (t - m)).sum(-1)
            torch.addcmul(gap, s_p, gap.sum(-1, keepdim=True), value=-1.0, out=grad_NC[chunk])
        ctx.save_for_backward(grad_NC)
        return loss_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None]:
        (grad_NC,) = ctx.saved_tensors
        return grad_NC * grad_N.unsqueeze(-1), None, None


def token_logps(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Log-probability of each target under softmax(logits), in nats, shape [N]."""
    return -cross_entropy(logits_NV, targets_N, reduction="none")


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


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy of softmax(logits) at each token, in nats, shape [N]; no gradient."""
    with torch.no_grad():
        n, v = logits_NV.shape
        entropy_N = torch.empty(n, dtype=logits_NV.dtype, device=logits_NV.device)
        rows = max(1, CHUNK_ELEMENTS // v)
        for i in range(0, n, rows):
            logp = torch.log_softmax(logits_NV[i : i + rows], -1)
            entropy_N[i : i + rows] = -(logp.exp() * logp).sum(-1)
        return entropy_N


def _of_tokens(tokens: Tokens, settings: TrainSettings) -> Tensor:
    assert tokens.teacher_NV is not None  # noqa: S101 -- it reads a teacher
    loss_N = token_divergence(
        tokens.student_NV,
        tokens.teacher_NV,
        alpha=settings.divergence_alpha,
        top_k=settings.top_k,
        tail=settings.tail,
    )
    return loss_N * clipped_ratio(tokens.now_N, tokens.old_N, settings.is_clip)


LOSS = Loss(reads_teacher=True, weights=sequence_mean_weights, of_tokens=_of_tokens)
