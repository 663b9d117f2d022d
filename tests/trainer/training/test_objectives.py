"""Each further objective says what docs/method.md 2 says: values and gradients of plain float64 arithmetic.

The arithmetic here is Python's and numpy's alone. What an objective holds fixed while it is differentiated (ratios,
gaps, confidences) is held fixed here too, and the rest is differentiated by differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.objectives import LOSSES, Scores, Tokens
from pmd.services.trainer.training.objectives.distill import confidences, sampled_divergence
from pmd.services.trainer.training.objectives.entropy import entropy
from pmd.services.trainer.training.objectives.grpo import group_advantages
from pmd.services.trainer.training.objectives.problems import pass_rate_weights
from pmd.services.trainer.training.objectives.reference import reference_kl

Array = NDArray[np.float64]

STUDENT = np.array([2, 1, 0.5, -1, 0])
TEACHER = np.array([0.5, 2.5, 0, -0.5, 0.2])
rng = np.random.default_rng(3)
N, V = 6, 7
LOGITS, TAUGHT = rng.normal(size=(N, V)), rng.normal(size=(N, V))
TARGETS = rng.integers(0, V, N)
OLD = rng.normal(-2, 0.3, N)
ADVANTAGES = np.array([0.75, -0.25, -0.25, 0.5, -0.5, 0.0])
SHARES = np.array([1.0, 0.0, 0.3, 0.3, 0.0, 1.0])
CONFIDENCES = np.array([1.4, 0.2, 1.0, 0.9, 1.1, 1.4])
WEIGHTS = np.array([0.2, 0.3, 0.1, 0.1, 0.2, 0.1])


def log_softmax(logits: Array) -> Array:
    most = logits.max(-1, keepdims=True)
    return np.asarray(logits - most - np.log(np.exp(logits - most).sum(-1, keepdims=True)))


def at(logits: Array, targets: Any) -> Array:
    return np.asarray(log_softmax(logits)[np.arange(len(logits)), targets])


def jensen_shannon(logits: Array) -> Array:
    s, t = log_softmax(logits), log_softmax(TAUGHT)
    m = np.log(0.5 * np.exp(s) + 0.5 * np.exp(t))
    return np.asarray(0.5 * (np.exp(s) * (s - m)).sum(-1) + 0.5 * (np.exp(t) * (t - m)).sum(-1))


def clipped_surrogate(logits: Array) -> Array:
    ratio = np.exp(at(logits, TARGETS) - OLD)
    loss = np.maximum(-ADVANTAGES * ratio, -ADVANTAGES * np.clip(ratio, 0.8, 1.28))
    return np.asarray(np.where(ADVANTAGES < 0, np.minimum(loss, -3.0 * ADVANTAGES), loss))


FIXED_RATIO = np.minimum(np.exp(at(LOGITS, TARGETS) - OLD), 2.0)
FIXED_GAP = at(LOGITS, TARGETS) - at(TAUGHT, TARGETS)
BLEND = {"reward_share": 0.3}

PLAIN: dict[str, tuple[dict[str, Any], Callable[[Array], Array]]] = {
    "sampled token": (
        {"loss": "distill", "divergence": "sampled_token", "divergence_alpha": 1.0},
        lambda logits: FIXED_GAP * at(logits, TARGETS) * FIXED_RATIO,
    ),
    "entropy weights": (
        {"loss": "distill", "teacher_entropy_beta": 1.0},
        lambda logits: CONFIDENCES * jensen_shannon(logits) * FIXED_RATIO,
    ),
    "grpo": ({"loss": "grpo"}, clipped_surrogate),
    "blend": (
        {"loss": "blend", **BLEND},
        lambda logits: SHARES * clipped_surrogate(logits) + (1 - SHARES) * jensen_shannon(logits) * FIXED_RATIO,
    ),
    "blend, routed, entropy weights": (
        {"loss": "blend", "route": "failed", "teacher_entropy_beta": 1.0},
        lambda logits: (
            SHARES * clipped_surrogate(logits) + (1 - SHARES) * CONFIDENCES * jensen_shannon(logits) * FIXED_RATIO
        ),
    ),
    "likelihood of what was drawn at another temperature": (
        {"loss": "likelihood", "temperature": 0.5},
        lambda logits: -at(0.5 * logits, TARGETS),
    ),
}


def ours(name: str, logits: torch.Tensor) -> torch.Tensor:
    settings = TrainSettings(lr=1.0, **PLAIN[name][0])
    kind = LOSSES[settings.loss]
    tokens = Tokens(
        student=Scores.of(logits),
        teacher=Scores.of(torch.from_numpy(TAUGHT)) if kind.reads_teacher else None,
        targets_N=torch.from_numpy(TARGETS),
        old_N=torch.from_numpy(OLD),
        advantages_N=torch.from_numpy(ADVANTAGES),
        reward_N=torch.from_numpy(SHARES),
        confidence_N=torch.from_numpy(CONFIDENCES) if settings.teacher_entropy_beta else None,
    )
    return kind.of_tokens(tokens, settings)


def by_differences(plain: Callable[[Array], Array], weights: Array, step: float = 1e-6) -> Array:
    gradient = np.zeros_like(LOGITS)
    for where in np.ndindex(*LOGITS.shape):
        nudge = np.zeros_like(LOGITS)
        nudge[where] = step
        gradient[where] = (weights * (plain(LOGITS + nudge) - plain(LOGITS - nudge))).sum() / (2 * step)
    return gradient


@pytest.mark.parametrize("name", PLAIN)
def test_losses_and_gradients_are_those_of_plain_arithmetic(name: str) -> None:
    logits = torch.from_numpy(LOGITS.copy()).requires_grad_()
    loss_N = ours(name, logits)
    np.testing.assert_allclose(loss_N.detach().numpy(), PLAIN[name][1](LOGITS), atol=1e-9)
    (gradient,) = torch.autograd.grad((loss_N * torch.from_numpy(WEIGHTS)).sum(), logits)
    np.testing.assert_allclose(gradient.numpy(), by_differences(PLAIN[name][1], WEIGHTS), atol=1e-7)


@pytest.mark.parametrize(("target", "golden"), [(0, -0.998673), (1, 1.986119), (4, -0.099171)])
def test_golden_values_of_the_sampled_token(target: int, golden: float) -> None:
    student, teacher = (Scores.of(torch.from_numpy(logits)[None]) for logits in (STUDENT, TEACHER))
    got = sampled_divergence(student, teacher, torch.tensor([target]))
    assert got.item() == pytest.approx(golden, abs=1e-6)


def test_the_sampled_tokens_gradient_is_in_expectation_that_of_the_reverse_kl() -> None:
    logits = torch.from_numpy(STUDENT[None].repeat(5, 0)).requires_grad_()
    teacher = Scores.of(torch.from_numpy(TEACHER[None].repeat(5, 0)))
    scores = Scores.of(logits)
    per_token = sampled_divergence(scores, teacher, torch.arange(5))
    (got,) = torch.autograd.grad((per_token * scores.p_NV[0]).sum(), logits)

    def reverse(student: Array) -> float:
        s, t = log_softmax(student), log_softmax(TEACHER)
        return float((np.exp(s) * (s - t)).sum())

    nudges = 1e-6 * np.eye(5)
    want = [(reverse(STUDENT + nudge) - reverse(STUDENT - nudge)) / 2e-6 for nudge in nudges]
    np.testing.assert_allclose(got.sum(0).numpy(), want, atol=1e-8)


def test_advantages_over_the_standard_deviation() -> None:
    """(1 - .25) / .5 and (0 - .25) / .5; a group that agrees, or has one rollout, has none."""
    rewards, groups = [1, 0, 0, 0, 1, 1, 1], ["a"] * 4 + ["b"] * 2 + ["c"]
    got = group_advantages(rewards, groups, [True] * 7, normalise=True)
    assert got == pytest.approx([1.499997, -0.499999, -0.499999, -0.499999, 0.0, 0.0, 0.0], abs=1e-6)
    assert group_advantages([1, 0, 0], ["a"] * 3, [True, True, False], normalise=True) == pytest.approx(
        [0.7071058, -0.7071058, 0.0], abs=1e-6
    )


def test_reference_kl_is_the_k3_estimator() -> None:
    now = torch.tensor([-1.2, -0.7, -3.0], dtype=torch.float64, requires_grad=True)
    term = reference_kl(now, torch.tensor([-0.7, -0.7, -4.0], dtype=torch.float64))
    assert term.tolist() == pytest.approx([0.148721, 0.0, 0.367879], abs=1e-6)
    (gradient,) = torch.autograd.grad(term.sum(), now)
    assert gradient.tolist() == pytest.approx([-0.648721, 0.0, 0.632121], abs=1e-6)


def test_entropy_and_its_gradient_are_those_of_plain_arithmetic() -> None:
    def plain(logits: Array) -> Array:
        logp = log_softmax(logits)
        return np.asarray(-(np.exp(logp) * logp).sum(-1))

    logits = torch.from_numpy(LOGITS.copy()).requires_grad_()
    found = entropy(Scores.of(logits))
    np.testing.assert_allclose(found.detach().numpy(), plain(LOGITS), atol=1e-12)
    (gradient,) = torch.autograd.grad((found * torch.from_numpy(WEIGHTS)).sum(), logits)
    np.testing.assert_allclose(gradient.numpy(), by_differences(plain, WEIGHTS), atol=1e-8)
    assert plain(STUDENT[None])[0] == pytest.approx(1.206489, abs=1e-6)
    assert entropy(Scores.of(torch.from_numpy(STUDENT)[None])).item() == pytest.approx(1.206489, abs=1e-6)


def test_confidence_falls_with_the_teachers_entropy() -> None:
    got = confidences(torch.tensor([0.0, 1.0, 2.0]), 1.0)
    assert got.tolist() == pytest.approx([1.0, math.exp(-1), math.exp(-2)], abs=1e-6)


def test_problem_weights_are_largest_where_half_of_the_rollouts_pass() -> None:
    weights = pass_rate_weights({"a": 0.25, "b": 0.5, "c": 1.0, "d": 0.0})
    assert weights == pytest.approx({"a": 1.856406, "b": 2.143594, "c": 0.0, "d": 0.0}, abs=1e-6)
    assert sum(weights.values()) == pytest.approx(4)
    assert pass_rate_weights({"a": 1.0, "b": 0.0}) == {"a": 0.0, "b": 0.0}
    assert pass_rate_weights({}) == {}


def test_a_divergence_of_one_token_is_a_reverse_kl_and_nothing_else() -> None:
    for wrong in ({"divergence_alpha": 0.5}, {"divergence_alpha": 1.0, "top_k": 5}):
        with pytest.raises(ValueError, match="sampled_token is a reverse KL"):
            TrainSettings(loss="distill", lr=1.0, divergence="sampled_token", **wrong)
