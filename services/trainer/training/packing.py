"""Cutting a mini-batch into micro-batches of tensors.

Invariants:
- Only trained samples are packed; masked ones have counted already, in the weights of the others.
- Samples with the same prompt share it where the model can (`prefix`): it is there once. Where the model can't,
  each sample is a row of its own, padded on the right and without an attention mask: under causal attention a real
  token never looks at the padding behind it, and no loss is read there.
- The cut depends on lengths alone, not on the number of ranks, and every rank gets the same number of
  micro-batches (collectives must match), so ranks change who computes, not what.
"""

# ruff: noqa: N815 -- axis names on tensors, in fields too
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pmd.services.trainer.training.batch import Sample
from pmd.services.trainer.training.prefix import Layout


@dataclass(frozen=True)
class Rows:
    """Padded token ids, and where the logits that predict each completion token stand in them.

    B is the number of samples, or 1 where they share prompts.
    """

    ids_BT: Tensor
    index_N: Tensor
    """Positions in the flattened [B·T] axis whose logits predict the completion tokens."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What a model that shares prompts is told besides: positions and layout."""


@dataclass(frozen=True)
class MicroBatch:
    """Samples that go through the model together; N runs over all their completion tokens."""

    student: Rows
    teacher: Rows | None
    targets_N: Tensor
    """The sampled tokens."""
    sampler_N: Tensor
    """Their log-probabilities by the rollout engine."""
    advantages_N: Tensor
    reward_N: Tensor
    """Share of GRPO's loss in each token's, where the loss is a blend."""
    weights_N: Tensor
    """What each token's loss counts for; 0 throughout in a filler."""
    samples: tuple[Sample, ...] = ()
    """What it was made of, in the order of N; none in a filler."""

    @property
    def tokens(self) -> int:
        return len(self.targets_N)


def plan(lengths: Sequence[tuple[int, int]], micro_tokens: int, ranks: int = 1) -> list[list[int]]:
    """Which samples go together: lists of indices, a multiple of `ranks` many, longest first.

    Args:
        lengths: tokens of each sample's student row and teacher row (0 without a teacher).
        micro_tokens: largest number of padded tokens of a forward pass; a longer row goes alone.
        ranks: the list is filled up with empty micro-batches to a multiple of this.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-max(lengths[i]), -sum(lengths[i]), i))
    micro_batches: list[list[int]] = []
    widest = 0
    for i in order:
        longest = max(lengths[i])
        if not micro_batches or max(widest, longest) * (len(micro_batches[-1]) + 1) > micro_tokens:
            micro_batches.append([])
            widest = 0
        micro_batches[-1].append(i)
        widest = max(widest, longest)
    return micro_batches + [[] for _ in range(-len(micro_batches) % ranks)]


def pack(samples: Sequence[Sample], weights: Sequence[float], device: torch.device, *, share: bool) -> MicroBatch:
    """Tensors of the given samples, which all have a teacher prompt or none has.

    Args:
        share: equal prompts are there once; for models of which `shares_prompts` holds.
    """
    rows = _shared_rows if share else _rows
    completions = [s.completion_ids for s in samples]
    n_S = torch.tensor([len(c) for c in completions])
    floats = torch.tensor([lp for s in samples for lp in s.sampler_logps])
    return MicroBatch(
        student=rows([s.prompt_ids for s in samples], completions, device),
        teacher=rows([s.teacher_ids for s in samples], completions, device) if samples[0].teacher_ids else None,
        targets_N=torch.tensor([t for c in completions for t in c]).to(device),
        sampler_N=floats.to(device),
        advantages_N=torch.tensor([s.advantage for s in samples]).repeat_interleave(n_S).to(device),
        reward_N=torch.tensor([s.reward_share for s in samples]).repeat_interleave(n_S).to(device),
        weights_N=torch.tensor(list(weights)).repeat_interleave(n_S).to(device),
        samples=tuple(samples),
    )


def filler(device: torch.device, teacher: bool) -> MicroBatch:
    """A micro-batch that adds nothing, for a rank that has run out of samples while others still compute."""
    rows = Rows(torch.zeros(1, 2, dtype=torch.long, device=device), torch.zeros(1, dtype=torch.long, device=device))
    zeros = torch.zeros(1, device=device)
    return MicroBatch(rows, rows if teacher else None, rows.index_N, zeros, zeros, zeros, zeros)


def _rows(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device) -> Rows:
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    ids = [[*p, *c, *[0] * (width - len(p) - len(c))] for p, c in zip(prompts, completions, strict=True)]
    index = [
        row * width + position
        for row, (p, c) in enumerate(zip(prompts, completions, strict=True))
        for position in range(len(p) - 1, len(p) + len(c) - 1)
    ]
    return Rows(torch.tensor(ids).to(device), torch.tensor(index).to(device))


def _shared_rows(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device) -> Rows:
    place: dict[tuple[int, ...], int] = {}
    prompt_of = [place.setdefault(tuple(p), len(place)) for p in prompts]
    width = max(map(len, place))
    length = max(1, *(len(c) - 1 for c in completions))  # nothing is predicted from the last token
    ids = [token for p in place for token in (*p, *[0] * (width - len(p)))]
    ids += [token for c in completions for token in (*c[:length], *[0] * (length - len(c)))]
    positions = [*range(width)] * len(place)
    positions += [position for p in prompts for position in range(len(p), len(p) + length)]
    index: list[int] = []
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        begin = len(place) * width + row * length
        index += [prompt_of[row] * width + len(p) - 1, *range(begin, begin + len(c) - 1)]
    layout = Layout.of(prompt_of, [len(p) for p in place], length, device)
    positions_1T = torch.tensor([positions]).to(device)
    shared = {"position_ids": positions_1T, "layout": layout}
    return Rows(torch.tensor([ids]).to(device), torch.tensor(index).to(device), shared)
