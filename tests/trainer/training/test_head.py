"""The output head in chunks: the model's own logits, a loss and gradients as if they were whole, and never whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from pmd.gateway.recipes.models.estimate import CHUNK
from pmd.services.trainer.training import head as head_module
from pmd.services.trainer.training.head import Head, Voice, check_head, last_hidden, score_rows
from pmd.services.trainer.training.objectives import Scores
from pmd.services.trainer.training.objectives.distill import token_divergence
from pmd.services.trainer.training.packing import Rows

VOCABULARY, WIDTH, LENGTH = 53, 16, 40

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}

HEADS: dict[str, dict[str, Any]] = {
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "untied": {"model_type": "llama", "tie_word_embeddings": False},
    "capped": {"model_type": "gemma2", "final_logit_softcapping": 0.5},
    "scaled": {"model_type": "cohere", "logit_scale": 3.0},
    "divided": {"model_type": "granite", "logits_scaling": 4.0},
    "with a bias": {"model_type": "phi", "tie_word_embeddings": False},
}


def make(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SMALL | HEADS[name])
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    layer = model.get_output_embeddings()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    return model


@pytest.fixture(params=HEADS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture
def rows() -> Rows:
    """Two sequences; what predicts all but the first three tokens of each."""
    ids = torch.randint(1, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return Rows(ids, torch.cat([torch.arange(3, LENGTH), torch.arange(LENGTH + 3, 2 * LENGTH)]))


def small_chunks(monkeypatch: pytest.MonkeyPatch, rows_of_chunk: int, rows_of_block: int) -> None:
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", {"cpu": rows_of_chunk * VOCABULARY})
    monkeypatch.setattr(head_module, "BLOCK_ELEMENTS", {"cpu": rows_of_block * VOCABULARY})


def test_logits_are_the_models_own(model: Any, rows: Rows) -> None:
    check_head(model)
    head = Head(model, temperature=0.7)
    with torch.no_grad():
        want = model(input_ids=rows.ids_BT).logits.flatten(0, 1)[rows.index_N] / 0.7
        got = head.logits(head.product(last_hidden(model, rows)))
    torch.testing.assert_close(got, want)
    assert model.get_output_embeddings()(torch.zeros(1, WIDTH)).shape == (1, VOCABULARY), "its head is its own again"


def test_a_head_that_is_not_known_is_refused() -> None:
    class Odd(type(make("tied"))):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits.flip(-1)
            return out

    model = make("tied")
    model.__class__ = Odd
    with pytest.raises(ValueError, match="Odd does something with its logits"):
        check_head(model)


def as_if_whole(model: Any, rows: Rows, score: Callable[..., Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(input_ids=rows.ids_BT).logits.flatten(0, 1)[rows.index_N].float() / 0.7
    loss = score(logits, slice(0, len(logits)))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("chunk", "block"), [(1000, 1000), (10, 4), (7, 7), (1, 1)])
@pytest.mark.parametrize("top_k", [None, 5])
def test_loss_and_gradients_are_those_of_whole_logits(
    model: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch, chunk: int, block: int, top_k: int | None
) -> None:
    small_chunks(monkeypatch, chunk, block)
    generator = torch.Generator().manual_seed(2)
    weights_N = torch.rand(len(rows.index_N), generator=generator)
    other = make("untied")
    teacher = Head(other, 0.7)
    with torch.no_grad():
        hidden = last_hidden(other, rows)
        teacher_NV = teacher.logits(teacher.product(hidden))

    def whole(student_NV: Tensor, here: slice) -> Tensor:
        loss_N = token_divergence(Scores.of(student_NV), Scores.of(teacher_NV[here]), alpha=0.5, top_k=top_k)
        return (loss_N * weights_N[here]).sum()

    def chunked(student_NV: Tensor, theirs_NV: Tensor | None, here: slice) -> Tensor:
        assert theirs_NV is not None
        torch.testing.assert_close(theirs_NV, teacher_NV[here])
        assert len(student_NV) <= block
        return whole(student_NV, here)

    want, want_grads = as_if_whole(model, rows, whole)
    model.zero_grad()
    loss = score_rows(model, rows, chunked, temperature=0.7, teacher=[Voice(1.0, teacher, hidden)])
    (2 * loss).backward()
    torch.testing.assert_close(loss.detach(), want)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * want_grads[name], atol=1e-6, rtol=1e-4)


def test_without_gradients_nothing_is_differentiated(model: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, 10, 4)
    seen = []

    def score(student_NV: Tensor, _: Tensor | None, here: slice) -> Tensor:
        seen.extend(range(here.start, here.stop))
        assert not student_NV.requires_grad
        return student_NV.sum()

    with torch.no_grad():
        loss = score_rows(model, rows, score, temperature=1.0)
    assert not loss.requires_grad
    assert seen == list(range(len(rows.index_N))), "each row once, in order"


def test_a_head_that_is_frozen_gets_no_gradient(rows: Rows) -> None:
    model = make("untied")
    model.get_output_embeddings().requires_grad_(False)
    score_rows(model, rows, lambda ours, _, __: ours.square().sum(), temperature=1.0).backward()
    assert model.get_output_embeddings().weight.grad is None
    assert model.get_input_embeddings().weight.grad is not None


def test_in_bf16_chunks_add_up_as_in_fp32(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added in bf16, ones after 256 are lost."""
    small_chunks(monkeypatch, 1, 1)
    model = make("untied", torch.bfloat16)
    layer = model.get_output_embeddings()
    many = Rows(rows.ids_BT, torch.full((600,), 5))  # the same row again and again
    score_rows(model, many, lambda ours, _, __: ours.sum(), temperature=1.0).backward()
    hidden = last_hidden(model, Rows(rows.ids_BT, torch.tensor([5]))).detach().float()
    torch.testing.assert_close(layer.weight.grad.float(), (600 * hidden).expand(VOCABULARY, -1), rtol=1e-2, atol=1e-2)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return out


def test_the_estimate_of_a_run_knows_the_chunk() -> None:
    assert head_module.CHUNK_ELEMENTS["cuda"] == CHUNK


@pytest.mark.parametrize("top_k", [None, 5])
def test_logits_are_never_whole(monkeypatch: pytest.MonkeyPatch, top_k: int | None) -> None:
    """At twice the tokens no tensor is larger, forward and backward."""
    monkeypatch.setitem(SMALL, "vocab_size", 2003)
    largest = []
    for tokens in (LENGTH, 2 * LENGTH):
        monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", {"cpu": 10 * 2003})
        model = make("untied")
        ids = torch.randint(1, 2003, (1, tokens))
        rows = Rows(ids, torch.arange(tokens))
        with torch.no_grad():
            teacher = [Voice(1.0, Head(model), last_hidden(model, rows))]

        def score(ours: Tensor, theirs: Tensor | None, _: slice) -> Tensor:
            assert theirs is not None
            return token_divergence(Scores.of(ours), Scores.of(theirs), alpha=0.5, top_k=top_k).sum()

        with Largest() as seen:
            score_rows(model, rows, score, temperature=1.0, teacher=teacher).backward()
        largest.append(seen.elements)
    assert largest[0] == largest[1] == 2003 * WIDTH, "the head's weights are the largest"


def test_the_gradient_of_what_many_rows_share_is_added_up_in_one_order_by_many_threads() -> None:
    """The last token of a shared prompt predicts the first of each of its completions."""
    model = make("tied")
    ids = torch.randint(1, VOCABULARY, (1, 8), generator=torch.Generator().manual_seed(1))
    shared = Rows(ids, torch.arange(8).repeat(2**12))
    factors = torch.randn(len(shared.index_N), WIDTH, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = set()
        for _ in range(8):
            model.zero_grad()
            (last_hidden(model, shared) * factors).sum().backward()
            gradients.add(model.get_input_embeddings().weight.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(gradients) == 1
