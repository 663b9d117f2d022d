"""DeepSpeed behind a step: what it keeps where, and gradients that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_student import Student
from transformers.modeling_layers import GradientCheckpointingLayer

from pmd.services.common.options import LoraSettings, TrainSettings
from pmd.services.trainer.training.batch import TrainBatch


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16")])
def test_a_gradient_that_is_not_finite_changes_nothing(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], stage: int, precision: str
) -> None:
    one = student(zero_stage=stage, precision=precision)
    before = one.weights()
    hook = one.engine.model.get_output_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda _, __, out: out * (torch.nan if out.requires_grad else 1.0)
    )
    metrics = one.step(batch())
    assert metrics["skipped"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values()), (
        "JSON can't write it, the step's result would be lost"
    )
    assert one.teacher is not None
    for weights in (one.weights(), one.teacher.state()):
        assert all(torch.equal(weights[name], weight) for name, weight in before.items())
    hook.remove()
    assert one.step(batch())["skipped"] == 0.0
    assert not all(torch.equal(one.weights()[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    "changes",
    [{}, {"zero_stage": 3}, {"lora": LoraSettings(rank=4, alpha=8)}],
    ids=["all weights", "stage 3", "adapter"],
)
def test_gradient_checkpointing_computes_layers_twice_and_changes_nothing(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], changes: dict[str, Any]
) -> None:
    ends = []
    for again in (False, True):
        one = student(gradient_checkpointing=again, micro_tokens=90, **changes)
        calls = []
        layer = next(m for m in one.engine.model.modules() if isinstance(m, GradientCheckpointingLayer))
        layer.self_attn.register_forward_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        metrics = one.step(batch())
        ends.append((calls.count(True), calls.count(False), metrics, one.weights()))
    (once, teacher, metrics, weights), (twice, same, others, again_weights) = ends
    assert (twice, same) == (2 * once, teacher)
    assert others == metrics
    assert all(torch.equal(weight, again_weights[name]) for name, weight in weights.items())


@pytest.mark.parametrize(("stage", "precision"), [(1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_an_optimizer_that_is_offloaded_trains_the_same_and_goes_on(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], tmp_path: Path, stage: int, precision: str
) -> None:
    plain, one = (student(zero_stage=stage, precision=precision, offload=place) for place in ("none", "optimizer"))
    assert (plain.engine.module.zero_cpu_offload(), one.engine.module.zero_cpu_offload()) == (False, True)
    for each in (plain, one):
        each.step(batch())
    one.engine.save(tmp_path, {"version": 1})
    other = student(zero_stage=stage, precision=precision, offload="optimizer")
    assert other.engine.load(tmp_path)["version"] == 1
    assert other.teacher is not None
    assert one.teacher is not None
    other.teacher.restore(one.teacher.state())
    for each in (plain, one, other):
        each.step(batch())
    exact = precision == "fp32"
    for name, weight in plain.weights().items():
        torch.testing.assert_close(one.weights()[name], weight, atol=1e-6 if exact else 1e-2, rtol=0)
        assert torch.equal(one.weights()[name], other.weights()[name])


def test_what_is_offloaded_is_sharded() -> None:
    with pytest.raises(ValidationError, match="optimizer needs zero_stage 1 or more, and it is 0"):
        TrainSettings(loss="distill", lr=1e-3, offload="optimizer")
    assert TrainSettings(loss="distill", lr=1e-3, offload="optimizer", precision="bf16").zero_stage == 0, "it runs as 1"
