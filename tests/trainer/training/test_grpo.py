"""The GRPO baseline says what docs/method.md 2.2 says: golden values."""

from __future__ import annotations

import pytest
import torch

from pmd.services.trainer.training.objectives.grpo import group_advantages, policy_loss, token_mean_weights

CLIPS = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}


def test_advantage_is_reward_minus_group_mean_without_deviation() -> None:
    advantages = group_advantages([1, 0, 0, 0, 1, 1], ["a"] * 4 + ["b"] * 2, [True] * 6)
    assert advantages == [0.75, -0.25, -0.25, -0.25, 0.0, 0.0]


def test_infra_errors_do_not_enter_the_group_mean() -> None:
    advantages = group_advantages([1, 0, 0], ["a"] * 3, [True, True, False])
    assert advantages == [0.5, -0.5, 0.0]
    assert group_advantages([0.0], ["a"], [False]) == [0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 1.0, -1.0),
        (1.5, 1.0, -1.28),  # not rewarded beyond the upper clip
        (0.5, 1.0, -0.5),
        (0.5, -1.0, 0.8),  # not rewarded beyond the lower clip
        (1.5, -1.0, 1.5),
        (9.0, -1.0, 3.0),  # dual clip
    ],
)
def test_clips(ratio: float, advantage: float, loss: float) -> None:
    got = policy_loss(torch.tensor([ratio]).log(), torch.zeros(1), torch.tensor([advantage]), **CLIPS)
    assert got.item() == pytest.approx(loss)


def test_gradient_raises_good_tokens_and_lowers_bad_ones() -> None:
    now = torch.zeros(2, requires_grad=True)
    policy_loss(now, now.detach(), torch.tensor([0.5, -0.5]), **CLIPS).sum().backward()
    assert now.grad is not None
    assert now.grad.tolist() == [-0.5, 0.5]


def test_loss_is_the_mean_over_trained_tokens() -> None:
    assert token_mean_weights([3, 7, 1], [True, False, True]) == [0.25, 0.0, 0.25]
    assert token_mean_weights([3], [False]) == [0.0]
