"""Weights beside the student's that a teacher speaks by: the base's, or a moving average of the student's.

Invariants:
- Both begin at the base.
- Where an adapter is trained the base is there once. The reference is the student's own model, in which what the
  adapter adds is left out, or another matrix is added: D, the average of what it adds, D <- (1-u) D + u B A. With it
  the base is the average of merged weights. Averaging A and B apart, as TRL 1.10 does, gives another matrix.

Axes: O outputs and I inputs of a layer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pmd.services.trainer.training.adapter import adapted, factors
from pmd.services.trainer.training.average import Average
from pmd.services.trainer.training.engine import Engine


class Reference(Protocol):
    """Weights that can be read in the student's place."""

    average: Average | None
    """What of them moves."""

    def read(self, student: Engine) -> contextlib.AbstractContextManager[tuple[nn.Module, nn.Module]]:
        """The model that has these weights while the context lasts, and what is called to run it."""
        ...

    def follow(self, student: Engine, rate: float) -> None:
        """Move towards the student by `rate`; all ranks together."""
        ...


class Copied:
    """A full copy of the base, on every rank."""

    def __init__(self, base: nn.Module, device: torch.device, averages_on: torch.device | None) -> None:
        """Args:
        averages_on: where averages are kept that follow the student; None: it stays what it is.
        """
        self.model = copy.deepcopy(base).to(device).requires_grad_(False).eval()
        named = dict(self.model.named_parameters())
        self.average = None if averages_on is None else Average(named, averages_on)

    @contextlib.contextmanager
    def read(self, student: Engine) -> Iterator[tuple[nn.Module, nn.Module]]:  # noqa: ARG002 -- as `Reference` has it
        yield self.model, self.model

    def follow(self, student: Engine, rate: float) -> None:
        assert self.average is not None  # noqa: S101 -- asked of what follows
        self.average.follow(student.trained_fp32(), rate)


class Added:
    """What is added to the base's matrices: nothing, or D of each adapted layer, in the model's precision."""

    def __init__(self, base: nn.Module, device: torch.device, averages_on: torch.device | None) -> None:
        """Args:
        averages_on: as `Copied` has it.
        """
        self._layers: dict[str, Any] = dict(adapted(base))
        self._added: dict[str, Tensor] = {}
        if averages_on is not None:
            for name, layer in self._layers.items():
                (a_RI,), (b_OR,) = layer.lora_A.parameters(), layer.lora_B.parameters()
                self._added[name] = torch.zeros(len(b_OR), a_RI.shape[1], dtype=a_RI.dtype, device=device)
        self.average = None if averages_on is None else Average(self._added, averages_on)

    @contextlib.contextmanager
    def read(self, student: Engine) -> Iterator[tuple[nn.Module, nn.Module]]:
        for name, layer in self._layers.items():
            layer.forward = partial(_forward, layer, self._added.get(name))
        try:
            yield student.model, student.module
        finally:
            for layer in self._layers.values():
                del layer.forward  # the class's own comes back

    def follow(self, student: Engine, rate: float) -> None:
        assert self.average is not None  # noqa: S101 -- asked of what follows
        tensors = {name: tensor.clone() for name, tensor in student.trained_fp32()}
        self.average.follow(self._products(tensors), rate)

    def _products(self, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, layer in self._layers.items():
            b_OR, a_RI = factors(layer, name, tensors)
            yield name, b_OR @ a_RI


def _forward(layer: Any, added_OI: Tensor | None, input_BTI: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    output_BTO: Tensor = layer.base_layer(input_BTI, *args, **kwargs)
    return output_BTO if added_OI is None else output_BTO + linear(input_BTI, added_OI)
