"""The distillation objective says what docs/method.md 2.1 says: golden values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pmd.services.trainer.training.objectives import Scores
from pmd.services.trainer.training.objectives.distill import clipped_ratio, sequence_mean_weights, token_divergence

STUDENT = torch.tensor([[2, 1, 0.5, -1, 0]])
TEACHER = torch.tensor([[0.5, 2.5, 0, -0.5, 0.2]])


@pytest.mark.parametrize(
    ("alpha", "top_k", "tail", "golden"),
    [
        (0.0, None, True, 0.712800),
        (1.0, None, True, 0.805926),
        (0.5, None, True, 0.173582),
        (0.0, 2, True, 0.698982),
        (1.0, 2, True, 0.787213),
        (0.5, 2, True, 0.169642),
        (1.0, 2, False, 1.006842),
        (0.5, 2, False, 0.208126),
    ],
)
def test_golden_values(alpha: float, top_k: int | None, tail: bool, golden: float) -> None:
    loss = token_divergence(Scores.of(STUDENT), Scores.of(TEACHER), alpha=alpha, top_k=top_k, tail=tail)
    assert loss.item() == pytest.approx(golden, abs=2e-6)


def by_definition(student: Tensor, teacher: Tensor, alpha: float, top_k: int | None, tail: bool) -> Tensor:
    """The reference's formulas, word for word, with autograd's gradient."""
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    if top_k is not None:
        index = student.topk(top_k, -1).indices
        s, t = s.gather(-1, index), t.gather(-1, index)

        def bucket(p: Tensor) -> Tensor:
            head = p.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
            return torch.cat([p, (1 - head.exp()).log()], -1) if tail else p.log_softmax(-1)

        s, t = bucket(s), bucket(t)
    if alpha == 0.0:
        return (t.exp() * (t - s)).sum(-1)
    if alpha == 1.0:
        return (s.exp() * (s - t)).sum(-1)
    m = ((1 - alpha) * s.exp() + alpha * t.exp()).log()
    return (1 - alpha) * (s.exp() * (s - m)).sum(-1) + alpha * (t.exp() * (t - m)).sum(-1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("top_k", "tail"), [(None, True), (4, True), (4, False)])
def test_closed_form_gradient_is_that_of_the_definition(alpha: float, top_k: int | None, tail: bool) -> None:
    torch.manual_seed(1)
    student = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, 11, dtype=torch.float64)
    weights = torch.rand(7, dtype=torch.float64)
    ours = token_divergence(Scores.of(student), Scores.of(teacher), alpha=alpha, top_k=top_k, tail=tail)
    theirs = by_definition(student, teacher, alpha, top_k, tail)
    torch.testing.assert_close(ours, theirs)
    (got,) = torch.autograd.grad((ours * weights).sum(), student)
    (want,) = torch.autograd.grad((theirs * weights).sum(), student)
    torch.testing.assert_close(got, want)


def test_top_k_of_the_whole_vocabulary_is_the_full_divergence() -> None:
    full = token_divergence(Scores.of(STUDENT), Scores.of(TEACHER), alpha=0.5)
    assert torch.equal(token_divergence(Scores.of(STUDENT), Scores.of(TEACHER), alpha=0.5, top_k=5), full)
    torch.testing.assert_close(token_divergence(Scores.of(STUDENT), Scores.of(TEACHER), alpha=0.5, top_k=4), full)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [None, 3])
def test_descending_the_gradient_approaches_the_teacher(alpha: float, top_k: int | None) -> None:
    student = STUDENT.clone().requires_grad_()
    losses = []
    for _ in range(400):
        loss = token_divergence(Scores.of(student), Scores.of(TEACHER), alpha=alpha, top_k=top_k).sum()
        (gradient,) = torch.autograd.grad(loss, student)
        student = (student - 0.5 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = TEACHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    token_divergence(Scores.of(student), Scores.of(teacher), alpha=0.5).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [None, 2])
def test_distributions_without_overlap_stay_finite(alpha: float, top_k: int | None) -> None:
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    teacher = torch.tensor([[-200.0, 0.0, 200.0]])
    loss = token_divergence(Scores.of(student), Scores.of(teacher), alpha=alpha, top_k=top_k)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_ratio_is_clipped_above_only_and_carries_no_gradient() -> None:
    now = torch.tensor([0.0, 3.0, -3.0, -1e4], requires_grad=True)
    ratio = clipped_ratio(now, torch.zeros(4), 2.0)
    torch.testing.assert_close(ratio, torch.tensor([1.0, 2.0, 0.0497871, 2.0611536e-9]))
    assert not ratio.requires_grad


def test_loss_is_the_mean_over_sequences_of_token_means_and_masked_ones_count_zero() -> None:
    lengths, trained = [2, 5, 1, 0], [True, False, True, True]
    weights = sequence_mean_weights(lengths, trained)
    losses = [[1.0, 3.0], [100.0] * 5, [10.0], []]
    total = sum(w * sum(ls) for w, ls in zip(weights, losses, strict=True))
    assert total == pytest.approx((2.0 + 0.0 + 10.0 + 0.0) / 4)
    assert sequence_mean_weights([3, 4], [False, False]) == [0.0, 0.0]


def test_log_probabilities_and_entropy_are_those_of_the_softmax() -> None:
    logits = torch.randn(1000, 700, dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    targets = torch.randint(0, 700, (1000,))
    scores = Scores.of(logits)
    torch.testing.assert_close(scores.logps(targets), p[torch.arange(1000), targets].log())
    torch.testing.assert_close(scores.entropy(), -(p * p.log()).sum(-1))
