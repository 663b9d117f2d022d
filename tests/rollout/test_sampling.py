"""The sampler: its log-probs are the model's, its tokens are the row's own."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel, Qwen3ForCausalLM

from pmd.services.common.wire import Sampling
from pmd.services.rollout.completion import DivergedError, Row
from pmd.services.rollout.engines.transformers.decode import ATTENTION
from pmd.services.rollout.engines.transformers.sampling import Drawn, draw, nucleus, sample
from tests.rollout.conftest import make_model

END = 257


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.set_num_threads(1)
    made = make_model(seed=0)
    made.set_attn_implementation(ATTENTION)
    return made


def make_rows(prompts: int, each: int, seed: int = 1) -> list[Row]:
    """Prompts of many lengths, so that left padding matters."""
    rng = random.Random(0)
    ids = [tuple(rng.randrange(256) for _ in range(3 + 5 * (i % 4))) for i in range(prompts)]
    return [Row(ids[i], seed, 100 * i + j) for i in range(prompts) for j in range(each)]


def run(model: PreTrainedModel, rows: Sequence[Row], sampling: Sampling, ends: Sequence[int] = (END,)) -> list[Drawn]:
    return sample(model, rows, sampling, ends=ends, prefill_tokens=40, check=lambda: None)


def teacher_forced(row: Row, drawn: Drawn, temperature: float) -> torch.Tensor:
    """Log-probs by one forward pass of an untouched transformers model, no cache, no padding."""
    reference = make_model(seed=0)
    ids = torch.tensor([[*row.prompt_ids, *drawn.token_ids]])
    with torch.inference_mode():
        logits = reference(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(drawn.token_ids)[:, None])[:, 0]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (0.0, 1.0)])
def test_logprobs_are_the_models_own(model: PreTrainedModel, temperature: float, top_p: float) -> None:
    rows = make_rows(6, 3)
    for row, drawn in zip(
        rows, run(model, rows, Sampling(temperature=temperature, top_p=top_p, max_tokens=20)), strict=True
    ):
        expected = teacher_forced(row, drawn, temperature or 1.0)
        assert torch.allclose(torch.tensor(drawn.logprobs), expected, atol=1e-5)


def test_greedy_is_generate(model: PreTrainedModel) -> None:
    reference = make_model(seed=0)
    rows = make_rows(6, 1)
    for row, drawn in zip(rows, run(model, rows, Sampling(temperature=0, max_tokens=24)), strict=True):
        ids = torch.tensor([row.prompt_ids])
        expected = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        assert drawn.token_ids == expected[0, ids.shape[1] :].tolist()


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(model: PreTrainedModel) -> None:
    sampling = Sampling(max_tokens=16)
    first = run(model, make_rows(4, 4), sampling)
    assert run(model, make_rows(4, 4), sampling) == first
    assert run(model, make_rows(4, 4, seed=2), sampling) != first


@pytest.mark.parametrize(("temperature", "share"), [(0.0, 1.0), (1.0, 0.95)])
def test_a_row_does_not_depend_on_its_neighbours(model: PreTrainedModel, temperature: float, share: float) -> None:
    """Sampled rows may differ where rounding moves a probability across a draw, which is rare."""
    rows = make_rows(10, 4)
    sampling = Sampling(temperature=temperature, max_tokens=24)
    together = run(model, rows, sampling)
    alone = [run(model, [row], sampling)[0] for row in rows]
    assert sum(a.token_ids == b.token_ids for a, b in zip(together, alone, strict=True)) >= share * len(rows)


def test_rows_that_end_early_do_not_disturb_the_others(model: PreTrainedModel) -> None:
    """Many end tokens make rows leave at every step; what is left agrees with a run in which none leaves."""
    rows, sampling, ends = make_rows(16, 4), Sampling(max_tokens=30), range(0, 256, 8)
    full = run(model, rows, sampling, ends=[999])
    early = run(model, rows, sampling, ends=ends)
    same = 0
    for whole, short in zip(full, early, strict=True):
        first = next((i for i, token in enumerate(whole.token_ids) if token in ends), None)
        same += short.token_ids == whole.token_ids[: None if first is None else first + 1]
    assert same >= 0.95 * len(rows)
    assert len({len(drawn.token_ids) for drawn in early}) > 5


def test_an_end_token_stops_and_is_kept_and_max_tokens_cuts(model: PreTrainedModel) -> None:
    for drawn in run(model, make_rows(16, 4), Sampling(max_tokens=12), ends=range(40)):
        assert drawn.stopped == (drawn.token_ids[-1] < 40)
        assert drawn.stopped or len(drawn.token_ids) == 12
        assert all(token >= 40 for token in drawn.token_ids[:-1])
        assert len(drawn.logprobs) == len(drawn.token_ids)


def test_draws_follow_the_distribution() -> None:
    logits_AV = torch.tensor([0.5, 0.3, 0.2, 0.0]).log().expand(10_000, 4)
    uniform_A = torch.arange(10_000) / 10_000
    token_A, _ = draw(logits_AV, uniform_A, Sampling())
    shares = token_A.bincount(minlength=4) / 10_000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=1e-3)


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    probs_AV = torch.tensor([[0.2, 0.5, 0.05, 0.25]])
    kept = {p: (nucleus(probs_AV, p) > 0)[0].tolist() for p in (1e-9, 0.5, 0.6, 0.76, 0.999)}
    assert kept == {
        1e-9: [False, True, False, False],
        0.5: [False, True, False, False],
        0.6: [False, True, False, True],
        0.76: [True, True, False, True],
        0.999: [True, True, True, True],
    }


def test_logits_that_are_not_finite_are_an_error() -> None:
    broken = make_model(seed=0)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"a lower optimizer\.lr"):
        run(broken, make_rows(1, 2), Sampling(max_tokens=2))


def test_sliding_windows_work_too() -> None:
    """OLMo3 mixes sliding and full attention; here a Qwen3 whose first layer sees eight positions."""
    torch.manual_seed(0)
    config = make_model(seed=0).config
    config.use_sliding_window, config.sliding_window = True, 8
    config.layer_types = ["sliding_attention", "full_attention"]
    sliding = Qwen3ForCausalLM(config).eval()
    assert DynamicCache(config=config).is_sliding == [True, False]
    sliding.set_attn_implementation(ATTENTION)
    rows = make_rows(4, 2)
    drawn = run(sliding, rows, Sampling(max_tokens=20))
    sliding.set_attn_implementation("sdpa")
    for row, one in zip(rows, drawn, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *one.token_ids]])
        with torch.inference_mode():
            logits = sliding(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(one.token_ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(one.logprobs), expected, atol=1e-5)
