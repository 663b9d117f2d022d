"""The teacher: whose weights it has, how they move, and what it says of a token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_student import Student, logits_of

from pmd.services.common.options import TeacherWeights
from pmd.services.trainer.training.average import Average, ema_
from pmd.services.trainer.training.batch import TrainBatch
from pmd.services.trainer.training.model import load_model
from pmd.services.trainer.training.objectives import Scores
from pmd.services.trainer.training.packing import pack


def test_ema_weighs_the_student_by_u_and_not_the_teacher() -> None:
    teacher = torch.tensor([1.0])
    ema_(teacher, torch.tensor([0.0]), 0.05)
    assert teacher.item() == pytest.approx(0.95)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_starts_at_the_base_and_follows_once_a_step(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], precision: str
) -> None:
    one = student(precision=precision)
    assert one.teacher is not None
    before = one.weights()
    assert all(torch.equal(average, before[name]) for name, average in one.teacher.state().items())
    one.step(batch(), lr=1e-4)
    after = one.weights()
    for name, average in one.teacher.state().items():
        torch.testing.assert_close(average, torch.lerp(before[name], after[name], 0.05), atol=1e-8, rtol=0)
        assert not torch.equal(after[name], before[name])


@pytest.mark.parametrize(("weights", "live"), [("ema", 0.0), ("initial", 0.0), ("live", 1.0), ("trust_region", 0.3)])
def test_a_teacher_is_measured_by_the_logits_that_it_speaks_by(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], weights: TeacherWeights, live: float
) -> None:
    one, b = student(teacher_weights=weights, teacher_ema=0.3), batch()
    assert one.teacher is not None
    base = copy.deepcopy(one.engine.model)
    with torch.no_grad():
        for parameter in one.engine.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    samples = [s for s in b.samples if s.teacher_ids][:3]
    micro = pack(samples, [1.0] * len(samples), torch.device("cpu"), share=False)
    assert micro.teacher is not None
    want = [
        (1 - live) * logits_of(base, s.teacher_ids, s.completion_ids)
        + live * logits_of(one.engine.model, s.teacher_ids, s.completion_ids)
        for s in samples
    ]
    got_N = one.teacher.measured(
        one.engine, micro.teacher, lambda logits_NV, _: Scores.of(logits_NV).entropy(), one.settings
    )
    torch.testing.assert_close(got_N, Scores.of(torch.cat(want)).entropy(), atol=1e-4, rtol=1e-4)


def test_what_the_teacher_held_of_each_token_is_that_of_the_token_behind_its_context(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], base_folder: Path
) -> None:
    def one_masked(_: Any, verdicts: list[dict[str, Any]], __: Any) -> None:
        verdicts[3]["outcome"] = "infra_error"

    b = batch(one_masked)
    s = student(micro_tokens=90, mini_batches=2, temperature=0.7)
    s.step(b)
    model = load_model(base_folder, torch.float32).eval()
    trained = [sample for sample in b.samples if sample.trained]
    assert set(s.updater.taught) == {sample.rollout_id for sample in trained} != {x.rollout_id for x in b.samples}
    for sample in trained:
        ids = torch.tensor([[*sample.teacher_ids, *sample.completion_ids]])
        with torch.no_grad():
            logits_NV = model(input_ids=ids).logits[0, len(sample.teacher_ids) - 1 : -1] / 0.7
        want_N = logits_NV.log_softmax(-1).gather(-1, torch.tensor(sample.completion_ids)[:, None])[:, 0]
        got_N = torch.tensor(s.updater.taught[sample.rollout_id])
        torch.testing.assert_close(got_N, want_N, atol=1e-4, rtol=1e-4)
    s = student(loss="grpo")
    s.step(batch(loss="grpo"))
    assert s.updater.taught == {}


def test_averages_that_are_apart_are_where_the_optimizer_is(device: torch.device) -> None:
    assert device.type == "cpu"
    elsewhere = torch.device("meta")
    kept = {
        place: Average({"bf16": torch.zeros(2, dtype=torch.bfloat16), "fp32": torch.zeros(2)}, place).state()
        for place in (device, elsewhere)
    }
    assert [kept[place]["bf16"].device for place in kept] == [device, elsewhere]
    assert {kept[place]["fp32"].device for place in kept} == {device}, "these are the tensors themselves"
