"""The teacher: an exponential moving average of the policy (SDPO, arXiv 2601.20802).

Invariants:
- θ' starts at the base and becomes (1-u) θ' + u θ once per training step, after its last optimizer step, and
  only when one of them had a finite gradient. u is the *student's* share (TRL#4935 had it the other way round).
- The average is kept in fp32: at u = 0.05 and lr 1e-5 a step is far below what bf16 can add to a weight.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pmd.services.trainer.training.engine import Engine


def ema_(teacher: Tensor, student: Tensor, rate: float) -> None:
    """teacher <- (1 - rate) teacher + rate student, in place."""
    teacher.lerp_(student, rate)


class Teacher:
    """A full copy of the model on every rank, with its fp32 average.

    In fp32 the copy is the average. In bf16 the average of each parameter lives on one rank (round robin), which
    rounds it and sends it to the others: averages cost a rank 4/world bytes per parameter.
    """

    def __init__(self, base: nn.Module, device: torch.device) -> None:
        """Args:
        base: the model at version 0; copied.
        """
        self.model = copy.deepcopy(base).to(device).requires_grad_(False).eval()
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._parameters = dict(self.model.named_parameters())
        self._averages = {
            name: parameter.float()  # of an fp32 parameter this is the parameter itself, not a copy
            for i, (name, parameter) in enumerate(self._parameters.items())
            if parameter.dtype == torch.float32 or i % self._world == self._rank
        }

    @torch.no_grad()
    def follow(self, student: Engine, rate: float) -> None:
        """Move towards the student by `rate`; all ranks together."""
        for i, (name, weight) in enumerate(student.parameters_fp32()):
            parameter = self._parameters[name]
            if name in self._averages:
                ema_(self._averages[name], weight, rate)
            if parameter.dtype != torch.float32:
                if name in self._averages:
                    parameter.copy_(self._averages[name])
                dist.broadcast(parameter, src=i % self._world)

    def state(self) -> dict[str, Tensor]:
        """The averages that this rank keeps, for a checkpoint."""
        return self._averages

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over averages that `state` gave on the same rank of as many; all ranks together.

        Raises:
            KeyError: when the state is of another model or another number of ranks.
        """
        for i, (name, parameter) in enumerate(self._parameters.items()):
            if name in self._averages:
                self._averages[name].copy_(state[name])
            if parameter.dtype != torch.float32:
                if name in self._averages:
                    parameter.copy_(self._averages[name])
                dist.broadcast(parameter, src=i % self._world)
