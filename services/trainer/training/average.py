"""The exponential moving average of named tensors, exact in any precision, its cost shared by the ranks.

Invariants:
- An average becomes (1-u) average + u value by each `follow`. u is the *student's* share (TRL#4935 had it the other way
  round).
- It is kept in fp32: at u = 0.05 and lr 1e-5 a step is far below what bf16 can add to a weight.

In fp32 a tensor is its average. In bf16 the average of each tensor lives on one rank (round robin), which rounds it and
sends it to the others: averages cost a rank 4/world bytes per element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor


def ema_(average: Tensor, value: Tensor, rate: float) -> None:
    """average <- (1 - rate) average + rate value, in place."""
    average.lerp_(value, rate)


class Average:
    """Tensors that follow others."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Args:
        tensors: where the averages begin; changed in place from now on, and equal on all ranks.
        device: where averages are kept that are not the tensors themselves.
        """
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._tensors = dict(tensors)
        self._averages = {
            name: tensor if tensor.dtype == torch.float32 else tensor.to(device, torch.float32)
            for i, (name, tensor) in enumerate(self._tensors.items())
            if tensor.dtype == torch.float32 or i % self._world == self._rank
        }

    @torch.no_grad()
    def follow(self, values: Iterable[tuple[str, Tensor]], rate: float) -> None:
        """Move by `rate` towards the value of each tensor, in the order they have here; all ranks together."""
        for i, (name, value) in enumerate(values):
            if name in self._averages:
                average = self._averages[name]
                ema_(average, value.to(average.device), rate)
            self._send(i, name)

    def state(self) -> dict[str, Tensor]:
        """The averages that this rank keeps, for a checkpoint."""
        return self._averages

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages that `state` gave on the same rank of as many; all ranks together.

        Raises:
            KeyError: when the state is of another model or another number of ranks.
        """
        for i, name in enumerate(self._tensors):
            if name in self._averages:
                self._averages[name].copy_(state[name])
            self._send(i, name)

    def _send(self, i: int, name: str) -> None:
        tensor = self._tensors[name]
        if tensor.dtype != torch.float32:
            if name in self._averages:
                tensor.copy_(self._averages[name])
            dist.broadcast(tensor, src=i % self._world)
