"""One training step inside the test process: losses, gradients, the teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_student import Student, logits_of

from pmd.services.trainer.training import head
from pmd.services.trainer.training.batch import TrainBatch
from pmd.services.trainer.training.head import Head, last_hidden
from pmd.services.trainer.training.model import load_model
from pmd.services.trainer.training.objectives import Scores
from pmd.services.trainer.training.objectives.distill import token_divergence
from pmd.services.trainer.training.packing import Rows, pack, plan


def test_plan_respects_the_limit_and_keeps_every_sample_once() -> None:
    lengths = [(5, 9), (40, 1), (3, 3), (9, 9), (2, 8)]
    cut = plan(lengths, 30)
    assert sorted(i for ids in cut for i in ids) == [0, 1, 2, 3, 4]
    assert all(len(ids) * max(max(lengths[i]) for i in ids) <= 30 or len(ids) == 1 for ids in cut)
    assert len(plan(lengths, 30, ranks=4)) % 4 == 0


def completion_logits(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """Logits that predict the completion tokens, [N, V]."""
    own = Head(model)
    return own.logits(own.product(last_hidden(model, rows)))


@pytest.mark.parametrize("share", [True, False])
def test_logits_at_completions_equal_those_of_single_unpadded_sequences(
    base_folder: Path, batch: Callable[..., TrainBatch], device: torch.device, share: bool
) -> None:
    samples = batch().samples
    assert len({s.prompt_ids for s in samples}) < len(samples), "there is something to share"
    model = load_model(base_folder, torch.float32).eval()
    with torch.no_grad():
        want = []
        for s in samples:
            ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
            want.append(model(input_ids=ids).logits[0, len(s.prompt_ids) - 1 : -1])
        got = completion_logits(model, pack(samples, [1.0] * len(samples), device, share=share).student)
    torch.testing.assert_close(got, torch.cat(want), atol=1e-5, rtol=1e-4)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "distill": {"loss": "distill"},
    "grpo": {"loss": "grpo"},
    "std and reference": {"loss": "grpo", "advantage": "std", "reference_kl": 0.1},
    "sampled token, entropy": {
        "loss": "distill",
        "divergence": "sampled_token",
        "divergence_alpha": 1.0,
        "entropy_bonus": 0.05,
    },
    "weights of problems": {"loss": "distill", "problem_weights": "pass_rate"},
    "routed": {"loss": "blend", "route": "failed", "teacher_entropy_beta": 1.0},
    "blended": {"loss": "blend", "reward_share": 0.3, "reference_kl": 0.1},
    "likelihood": {"loss": "likelihood", "temperature": 0.7},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_shared_prompts_change_only_what_a_step_costs(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], objective: str
) -> None:
    ends = []
    for share in (True, False):
        one = student(**OBJECTIVES[objective], mini_batches=2)
        assert one.updater._share, "the tiny model can share"
        one.updater._share = share
        ends.append((one.step(batch(**OBJECTIVES[objective])), one.weights()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3, abs=1e-6)
    for name, weight in ends[0][1].items():
        torch.testing.assert_close(weight, ends[1][1][name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batch_size_does_not_change_the_step(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], objective: str
) -> None:
    ends = []
    for micro_tokens in (1, 120, 100_000):
        one = student(**OBJECTIVES[objective], micro_tokens=micro_tokens)
        ends.append((one.step(batch(**OBJECTIVES[objective])), one.weights()))
    for metrics, weights in ends[1:]:
        assert metrics == pytest.approx(ends[0][0], rel=1e-3, abs=1e-6)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, ends[0][1][name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("objective", "stage", "precision"),
    [
        *((name, 0, "fp32") for name in OBJECTIVES),
        *((name, *how) for name in ("distill", "grpo") for how in ((3, "fp32"), (2, "bf16"), (3, "bf16"))),
    ],
)
def test_chunks_of_logits_do_not_change_the_step(
    student: Callable[..., Student],
    batch: Callable[..., TrainBatch],
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    stage: int,
    precision: str,
) -> None:
    ends = []
    for elements in (1 << 24, 7 * 63):
        monkeypatch.setattr(head, "CHUNK_ELEMENTS", {"cpu": elements})
        monkeypatch.setattr(head, "BLOCK_ELEMENTS", {"cpu": elements // 2})
        one = student(**OBJECTIVES[objective], zero_stage=stage, precision=precision, mini_batches=2)
        ends.append((one.step(batch(**OBJECTIVES[objective])), one.weights()))
    (whole, weights), (chunked, others) = ends
    exact = precision == "fp32"
    assert chunked == pytest.approx(whole, rel=1e-3 if exact else 0.05, abs=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=2e-4 if exact else 2e-2, rtol=1e-3)


def test_the_loss_compares_the_student_with_the_average_each_on_its_own_prompt(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], base_folder: Path
) -> None:
    """By definition: the divergence at the sampling temperature, weighed by trainer against sampler."""
    rule: dict[str, Any] = {"top_k": 5, "tail": False}
    changes = {**rule, "divergence_alpha": 0.3, "temperature": 0.7, "tis_clip": 1.2, "teacher_ema": 0.0}
    one = student(**changes)
    one.step(batch(**changes))  # the student leaves the base, where its teacher stays
    samples = batch(**changes).samples
    teacher = load_model(base_folder, torch.float32).eval()
    means = []
    for s in samples:
        student_NV = logits_of(one.engine.model, s.prompt_ids, s.completion_ids) / 0.7
        teacher_NV = logits_of(teacher, s.teacher_ids, s.completion_ids) / 0.7
        now_N = student_NV.log_softmax(-1)[range(len(s.completion_ids)), list(s.completion_ids)]
        ratio_N = (now_N - torch.tensor(s.sampler_logps)).exp().clamp(max=1.2)
        loss_N = token_divergence(Scores.of(student_NV), Scores.of(teacher_NV), alpha=0.3, **rule)
        means.append(float((loss_N * ratio_N).mean()))
    loss = one.step(batch(**changes), lr=0.0)["loss"]
    assert loss == pytest.approx(sum(means) / len(means), rel=1e-3)


def test_importance_is_now_against_the_start_of_the_step(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    at_start = student().step(batch(), lr=0.0)
    many = student(mini_batches=4).step(batch(), lr=5e-2)
    assert many["mismatch_kl"] == pytest.approx(at_start["mismatch_kl"], rel=1e-3), "old is before the first of them"
    clipped = student(is_clip=1e-3).step(batch(), lr=0.0)
    assert clipped["loss"] == pytest.approx(1e-3 * at_start["loss"], rel=1e-3)


def test_the_gap_is_told_by_problem(student: Callable[..., Student], batch: Callable[..., TrainBatch]) -> None:
    """So that the replica which drew a problem with other weights can be named."""

    def shifted(rollouts: Any, verdicts: Any, contexts: Any) -> None:
        for row in rollouts:
            if row["problem_id"] == rollouts[0]["problem_id"]:
                row["logprobs"] = [value - 1.0 for value in row["logprobs"]]

    fair, wrong = student(mini_batches=4), student(mini_batches=4)
    whole = fair.step(batch(), lr=0.0)["mismatch_kl"]
    wrong.step(batch(shifted), lr=0.0)
    before, after = fair.updater.gaps, wrong.updater.gaps
    assert min(before.values()) <= whole <= max(before.values())
    changed = {problem for problem in before if after[problem] != pytest.approx(before[problem])}
    assert len(before) > 1
    assert len(changed) == 1


def test_a_step_goes_as_far_as_its_learning_rate_and_its_clipped_gradient_say(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    def moved(lr: float, **changes: Any) -> float:
        one = student(weight_decay=0.0, **changes)
        before = one.weights()
        one.step(batch(), lr=lr)
        return max(float((weight - before[name]).abs().max()) for name, weight in one.weights().items())

    assert moved(1e-4) == pytest.approx(1e-4, rel=0.05), "AdamW's first step is its learning rate"
    assert moved(1e-4, grad_clip=1e-12) < 1e-6


def test_distillation_moves_the_student_towards_the_teacher(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    one = student(teacher_ema=0.0)
    losses = [one.step(batch())["loss"] for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]


def test_grpo_raises_rewarded_completions(student: Callable[..., Student], batch: Callable[..., TrainBatch]) -> None:
    one = student(loss="grpo")
    b = batch(loss="grpo")
    sample = max(b.samples, key=lambda s: s.advantage)
    rows_of = pack([sample], [1.0], one.device, share=True)

    def logp() -> float:
        with torch.no_grad():
            logps = completion_logits(one.engine.model, rows_of.student).log_softmax(-1)
        return float(logps.gather(-1, rows_of.targets_N[:, None]).mean())

    before = logp()
    for _ in range(5):
        one.step(b)
    assert logp() > before + 0.05


def test_top_k_of_everything_is_the_full_step(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    full, all_k, few = student(), student(top_k=63), student(top_k=5)
    losses = [s.step(batch())["loss"] for s in (full, all_k, few)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] < losses[0]  # merging categories loses information, never gains any


def test_mini_batches_are_several_optimizer_steps_and_one_of_the_teacher(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    one = student(mini_batches=4)
    before = one.weights()
    metrics = one.step(batch())
    assert metrics["skipped"] == 0.0
    assert one.engine.module.global_steps == 4
    assert one.teacher is not None
    for name, average in one.teacher.state().items():
        torch.testing.assert_close(average, torch.lerp(before[name], one.weights()[name], 0.05))


def test_zero_learning_rate_moves_nothing(student: Callable[..., Student], batch: Callable[..., TrainBatch]) -> None:
    one, other = student(), student()
    metrics = one.step(batch(), lr=0.0)
    assert metrics["loss"] > 0
    one.step(batch())
    other.step(batch())
    assert all(torch.equal(one.weights()[name], weight) for name, weight in other.weights().items())


@pytest.mark.parametrize("loss", ["distill", "grpo"])
def test_a_batch_of_masked_samples_gives_zero_loss_and_moves_nothing(
    student: Callable[..., Student], batch: Callable[..., TrainBatch], loss: str
) -> None:
    def fail(_: Any, verdicts: list[dict[str, Any]], __: Any) -> None:
        for verdict in verdicts:
            verdict["outcome"] = "infra_error"

    one = student(loss=loss)
    before = one.weights()
    metrics = one.step(batch(fail, loss=loss))
    assert metrics["loss"] == 0.0
    assert metrics["masked"] == metrics["sequences"] == 16.0
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.equal(one.weights()[name], weight) for name, weight in before.items())


def test_masked_samples_count_in_the_denominator_only(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    def mask(_: Any, __: Any, contexts: list[dict[str, Any]]) -> None:
        for context in contexts[8:]:
            context["has_context"] = False

    whole, half = student().step(batch(), lr=0.0), student().step(batch(mask), lr=0.0)
    rest = student().step(batch(lambda r, v, c: mask(r, v, c[::-1])), lr=0.0)
    assert half["loss"] + rest["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_a_routed_step_distils_what_failed_and_rewards_the_rest(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    """By definition: one mean over all trained tokens, of the one loss or the other (SRPO)."""
    changes: dict[str, Any] = {"loss": "blend", "route": "failed", "teacher_entropy_beta": 1.0, "tis_clip": 1e9}

    def unhelped(_: Any, __: Any, contexts: list[dict[str, Any]]) -> None:
        for context in contexts[:3]:
            context["has_context"] = False

    one = student(**changes)
    b = batch(unhelped, **changes)
    taught = [s for s in b.samples if s.teacher_ids]
    alone = [s for s in b.samples if not s.teacher_ids]
    assert {s.reward for s in taught} == {0.0}
    assert {s.reward for s in alone} == {0.0, 1.0}, "what failed without a context is left to its reward"
    assert all(s.trained for s in b.samples)
    assert one.teacher is not None
    entropies, divergences, surrogates = [], [], []
    for s in b.samples:
        student_NV = logits_of(one.engine.model, s.prompt_ids, s.completion_ids)
        now_N = student_NV.log_softmax(-1)[range(len(s.completion_ids)), list(s.completion_ids)]
        ratio_N = (now_N - torch.tensor(s.sampler_logps)).exp()
        if not s.teacher_ids:
            surrogates.append(-s.advantage * ratio_N)
            continue
        teacher_NV = logits_of(one.engine.model, s.teacher_ids, s.completion_ids)  # nothing has moved yet
        entropies.append(Scores.of(teacher_NV).entropy())
        divergences.append(token_divergence(Scores.of(student_NV), Scores.of(teacher_NV), alpha=0.5) * ratio_N)
    weights = torch.exp(-torch.cat(entropies))
    want = (torch.cat(divergences) * weights / weights.mean()).sum() + torch.cat(surrogates).sum()
    metrics = one.step(b, lr=0.0)
    assert metrics["loss"] == pytest.approx(float(want) / b.tokens, rel=1e-4)
    assert metrics["teacher_entropy"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-4)


def test_entropy_is_the_mean_over_what_is_trained(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    one, b = student(), batch()
    each = [Scores.of(logits_of(one.engine.model, s.prompt_ids, s.completion_ids)).entropy() for s in b.samples]
    assert one.step(b, lr=0.0)["entropy"] == pytest.approx(float(torch.cat(each).mean()), rel=1e-4)


def test_a_reference_holds_the_policy_back_and_an_entropy_bonus_spreads_it(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    grpo = {"loss": "grpo", "teacher_ema": 0.0}
    free, held, paid = student(**grpo), student(**grpo, reference_kl=3.0), student(**grpo, entropy_bonus=1.0)
    b = batch(loss="grpo")
    for one in (free, held, paid):
        for _ in range(8):
            one.step(b)
    distance = student(**grpo, reference_kl=1e-9)

    def from_base(one: Student) -> float:
        distance.engine.model.load_state_dict(one.engine.model.state_dict())
        return distance.step(b, lr=0.0)["reference_kl"]

    assert from_base(held) < 0.5 * from_base(free)
    assert paid.step(b, lr=0.0)["entropy"] > free.step(b, lr=0.0)["entropy"] + 0.05


def test_problems_whose_rollouts_agree_count_for_nothing(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    def judged(_: Any, verdicts: list[dict[str, Any]], __: Any) -> None:
        for verdict in verdicts:
            number = int(verdict["rollout_id"].split("#")[1])
            passed = {"p0": number < 1, "p1": number < 2, "p2": True, "p3": False}[verdict["problem_id"]]
            verdict |= {"outcome": "passed" if passed else "failed", "reward": float(passed)}

    b = batch(judged, problem_weights="pass_rate")
    weight = {s.problem_id: s.weight for s in b.samples}
    assert weight == pytest.approx({"p0": 1.856406, "p1": 2.143594, "p2": 0.0, "p3": 0.0}, abs=1e-6)
    assert {s.problem_id for s in b.samples if s.trained} == {"p0", "p1"}
    alone = {
        name: student().step(TrainBatch(tuple(s for s in batch(judged).samples if s.problem_id == name)), lr=0.0)
        for name in ("p0", "p1")
    }
    want = sum(weight[name] * alone[name]["loss"] for name in alone) / 4
    assert student().step(b, lr=0.0)["loss"] == pytest.approx(want, rel=1e-4)


def test_a_mean_over_tokens_is_over_those_that_count_for_nothing_too(
    student: Callable[..., Student], batch: Callable[..., TrainBatch]
) -> None:
    def judged(_: Any, verdicts: list[dict[str, Any]], __: Any) -> None:
        for verdict in verdicts:
            passed = verdict["problem_id"] == "p1" or verdict["rollout_id"].endswith("#0")
            verdict |= {"outcome": "passed" if passed else "failed", "reward": float(passed)}

    whole = batch(judged, loss="grpo")
    lengths = {name: sum(len(s.completion_ids) for s in whole.samples if s.problem_id == name) for name in ("p0", "p1")}
    b = batch(judged, loss="grpo", problem_weights="pass_rate")
    weights = {s.problem_id: s.weight for s in b.samples}
    assert weights["p1"] == 0.0
    want = 0.0
    for name, weight in weights.items():
        mine = tuple(s for s in whole.samples if s.problem_id == name)
        tokens = sum(len(s.completion_ids) for s in mine)
        want += weight * tokens * student(loss="grpo").step(TrainBatch(mine), lr=0.0)["loss"]
    assert lengths["p1"] > 0
    got = student(loss="grpo", problem_weights="pass_rate").step(b, lr=0.0)["loss"]
    assert got == pytest.approx(want / whole.tokens, rel=1e-4)
