"""The output head, walked through in chunks of rows: logits never exist for all tokens of a micro-batch.

Of N tokens and a vocabulary of V there are [C, V] logits at a time, of student and teacher side by side. Their gradient
is turned into that of hidden states and weights at once, before the next chunk (as in Liger's fused linear losses,
arXiv 2410.10989), so that what a step needs grows with N and with V, but not with N times V.

Invariants:
- Logits are exactly the model's own: its scaling and soft-capping included, which is checked when it is loaded.
- All of it happens while the model calls its head. DeepSpeed has then gathered the head's weights, at every ZeRO stage,
  and gathers them again for the gradient.
"""

# ruff: noqa: N815 -- axis names on tensors, in fields too
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pmd.services.trainer.training.packing import Rows

CHUNK_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Logits that exist at once: 64 MiB in fp32, 256 MiB on a GPU. Fewer make narrow matrix products, each of which reads
all weights of the head and, for their gradient, writes them."""

BLOCK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits that are scored at once: 1 MiB of fp32 stays in a core's cache."""

Score = Callable[[Tensor, Tensor | None, slice], Tensor]
"""From logits [B, V] of student and teacher at the sampling temperature, and where these B rows stand among the N, the
sum of their losses; differentiable in the student's."""


def parts(begin: int, end: int, columns: int, elements: int) -> Iterator[slice]:
    """The rows `begin` to `end` of a matrix in pieces of at most `elements`, each of one row at least."""
    rows = max(1, elements // columns)
    for i in range(begin, end, rows):
        yield slice(i, min(i + rows, end))


class Head:
    """The last layer of a causal language model of transformers: hidden states [N, D] to logits [N, V]."""

    def __init__(self, model: nn.Module, temperature: float = 1.0) -> None:
        """Args:
        temperature: what logits are divided by.
        """
        self.layer: nn.Linear = model.get_output_embeddings()  # type: ignore[operator]
        config = model.config.get_text_config()  # type: ignore[operator, union-attr]
        self._scale = getattr(config, "logit_scale", None) or 1.0
        self._divisor = getattr(config, "logits_scaling", None) or 1.0
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._temperature = temperature

    def product(self, hidden_ND: Tensor, out_NV: Tensor | None = None) -> Tensor:
        """Hidden states by the output embedding, [N, V], in the model's precision; no gradient.

        Args:
            out_NV: what it is written to.
        """
        weight_VD, bias_V = self.layer.weight.detach(), self.layer.bias
        if bias_V is None:
            return torch.mm(hidden_ND, weight_VD.t(), out=out_NV)
        return torch.addmm(bias_V.detach(), hidden_ND, weight_VD.t(), out=out_NV)

    def logits(self, product_NV: Tensor) -> Tensor:
        """What the model makes of the product, in fp32, divided by the temperature."""
        if self._scale != 1.0:
            product_NV = product_NV * self._scale
        if self._divisor != 1.0:
            product_NV = product_NV / self._divisor
        if self._cap:
            product_NV = torch.tanh(product_NV / self._cap) * self._cap
        logits_NV = product_NV.float()
        return logits_NV if self._temperature == 1.0 else logits_NV / self._temperature


@dataclass(frozen=True)
class Voice:
    """A model's part in what a teacher says: the teacher's logits are the sum of its voices', each times its share."""

    share: float
    head: Head
    hidden_ND: Tensor
    """Its hidden states at the completion tokens."""


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """See that `Head` gives the logits that the model gives.

    Raises:
        ValueError: when the model does something else with its last hidden states.
    """
    head = Head(model)
    index_N = torch.arange(8) % head.layer.weight.shape[0]
    want_NV = model(input_ids=index_N[None], use_cache=False).logits[0].float()
    got_NV = head.logits(head.product(last_hidden(model, Rows(index_N[None], torch.arange(8)))))
    close = 1e-2 * float(want_NV.abs().max())
    if got_NV.shape != want_NV.shape or not torch.allclose(got_NV, want_NV, rtol=0.0, atol=close):
        raise ValueError(
            f"{type(model).__name__} does something with its logits that the trainer doesn't know; it knows scaling"
            " (logit_scale, logits_scaling) and soft-capping (final_logit_softcapping)"
        )


def _call(model: nn.Module, rows: Rows, head: Callable[[Tensor], Tensor], forward: nn.Module | None = None) -> Tensor:
    """Run the model with another head, and return what that made of the [N, D] hidden states at `rows.index_N`.

    Args:
        forward: what is called in the model's place: the DeepSpeed engine around it.
    """
    layer: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    made: list[Tensor] = []

    def replace(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        # As DeepSpeed's hooks, which are older than this one, return it: they gather weights before its gradient.
        made.append(output)
        return output.new_zeros(1, 1, 1)

    hook = layer.register_forward_hook(replace)
    layer.forward = lambda hidden_BTD: head(hidden_BTD.flatten(0, -2).index_select(0, rows.index_N))
    try:
        (forward or model)(input_ids=rows.ids_BT, use_cache=False, **rows.shared)
    finally:
        del layer.forward  # the class's own comes back
        hook.remove()
    return made[0]


def last_hidden(model: nn.Module, rows: Rows, forward: nn.Module | None = None) -> Tensor:
    """Hidden states [N, D] from which the model predicts the completion tokens.

    Args:
        forward: what is called in the model's place: the DeepSpeed engine around it.
    """
    return _call(model, rows, lambda hidden_ND: hidden_ND, forward)


def score_rows(
    model: nn.Module,
    rows: Rows,
    score: Score,
    *,
    temperature: float,
    teacher: Sequence[Voice] = (),
    forward: nn.Module | None = None,
) -> Tensor:
    """The sum of what `score` says of all N tokens, a scalar; differentiable where gradients are enabled.

    Args:
        model: the student, a causal language model of transformers.
        teacher: its voices at the same tokens; none without a teacher.
        forward: what is called in the model's place: the DeepSpeed engine around it.
    """
    head = Head(model, temperature)

    def walk(hidden_ND: Tensor) -> Tensor:
        ours = (hidden_ND, head.layer.weight, head.layer.bias)
        loss: Tensor = _Chunks.apply(*ours, head, score, teacher, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return loss

    return _call(model, rows, walk, forward)


@torch.no_grad()
def measured(
    model: nn.Module,
    rows: Rows,
    of_logits: Callable[[Tensor, slice], Tensor],
    temperature: float,
    forward: nn.Module | None = None,
    beside: Voice | None = None,
) -> Tensor:
    """One number for each completion token of `rows`, [N], read off its logits; no gradient.

    Args:
        of_logits: from logits [B, V] and where these rows stand among the N, numbers [B].
        forward: what is called in the model's place: the DeepSpeed engine around it.
        beside: a part of the logits that is another model's; the rest is this one's.
    """
    values_N = torch.zeros(len(rows.index_N), device=rows.index_N.device)

    def score(logits_NV: Tensor, other_NV: Tensor | None, here: slice) -> Tensor:
        if beside is not None and other_NV is not None:
            logits_NV = (1.0 - beside.share) * logits_NV + beside.share * other_NV
        values_N[here] = of_logits(logits_NV, here)
        return values_N[here].sum()

    teacher = () if beside is None else (beside,)
    score_rows(model, rows, score, temperature=temperature, teacher=teacher, forward=forward)
    return values_N


class _Chunks(torch.autograd.Function):
    """The sum of a score over all rows; its gradient is computed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Head,
        score: Score,
        teacher: Sequence[Voice],
        learn: bool,
    ) -> Tensor:
        N, V = len(hidden_ND), len(weight_VD)
        device = hidden_ND.device.type
        grad_ND = torch.empty_like(hidden_ND) if learn and ctx.needs_input_grad[0] else None
        sums = _WeightGradient(bias=bias_V is not None) if learn and ctx.needs_input_grad[1] else None
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        chunks = list(parts(0, N, V, CHUNK_ELEMENTS[device]))
        # Room is taken once: the system takes back what is so large, and clears it before it gives it again.
        room_CV = hidden_ND.new_empty(chunks[0].stop, V)
        teacher_rooms_CV = [torch.empty_like(room_CV) for _ in teacher]
        for chunk in chunks:
            size = chunk.stop - chunk.start
            product_CV = head.product(hidden_ND[chunk], room_CV[:size])
            spoken_CV = [
                voice.head.product(voice.hidden_ND[chunk], other_CV[:size])
                for voice, other_CV in zip(teacher, teacher_rooms_CV, strict=True)
            ]
            for block in parts(chunk.start, chunk.stop, V, BLOCK_ELEMENTS[device]):
                here = slice(block.start - chunk.start, block.stop - chunk.start)
                teacher_BV = _together(teacher, [product_CV[here] for product_CV in spoken_CV])
                with torch.set_grad_enabled(learn):
                    product_BV = product_CV[here].detach().requires_grad_(learn)
                    of_block = score(head.logits(product_BV), teacher_BV, block)
                loss += of_block.detach()
                if learn:
                    # In the place of the product, which is not read again.
                    product_CV[here] = torch.autograd.grad(of_block, product_BV)[0]
            if grad_ND is not None:
                torch.mm(product_CV, weight_VD, out=grad_ND[chunk])
            if sums is not None:
                sums.add(product_CV, hidden_ND[chunk])
        ctx.save_for_backward(grad_ND, *(sums.total(weight_VD.dtype) if sums else (None, None)))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if one is None else one.mul_(grad) for one in ctx.saved_tensors]
        return (*grads, None, None, None, None)


def _together(voices: Sequence[Voice], products_BV: Sequence[Tensor]) -> Tensor | None:
    """The logits of a teacher from the products of its voices; None without any."""
    if not voices:
        return None
    logits_BV = [voice.head.logits(product_BV) for voice, product_BV in zip(voices, products_BV, strict=True)]
    if len(voices) == 1:
        return logits_BV[0]
    return torch.stack([voice.share * each for voice, each in zip(voices, logits_BV, strict=True)]).sum(0)


class _WeightGradient:
    """Gradient of the output embedding, added up over chunks: in fp32, for bf16 would lose what later ones add."""

    def __init__(self, *, bias: bool) -> None:
        self._weight_VD: Tensor | None = None
        self._bias_V: Tensor | None = None
        self._has_bias = bias

    def add(self, grad_CV: Tensor, hidden_CD: Tensor) -> None:
        """Add a chunk's."""
        if self._has_bias:
            bias_V = grad_CV.float().sum(0)
            self._bias_V = bias_V if self._bias_V is None else self._bias_V.add_(bias_V)
        if self._weight_VD is None:
            self._weight_VD = grad_CV.t().mm(hidden_CD)
        elif grad_CV.dtype == torch.float32:
            self._weight_VD.addmm_(grad_CV.t(), hidden_CD)
        else:
            self._weight_VD = self._weight_VD.float().add_(grad_CV.t().mm(hidden_CD))

    def total(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Of weight and, where there is one, bias, in the precision of the parameters."""
        weight_VD, bias_V = (None if one is None else one.to(dtype) for one in (self._weight_VD, self._bias_V))
        return weight_VD, bias_V
