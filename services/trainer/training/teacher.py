"""The teacher: whose predictions the student learns, reading what the student does not see (docs/method.md 2.6).

Invariants:
- Its weights are one of `options.TeacherWeights`, and that is all that the choice changes.
- It moves once per training step, after the last optimizer step, and only when one of them had a finite gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pmd.services.common.options import TeacherWeights, TrainSettings
from pmd.services.trainer.training.adapter import adapted
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.head import Head, Voice, last_hidden, measured
from pmd.services.trainer.training.packing import Rows
from pmd.services.trainer.training.reference import Added, Copied, Reference


class Teacher:
    """Weights that are the student's, others, or both, and how they are read and moved."""

    def __init__(self, base: nn.Module, settings: TrainSettings, device: torch.device) -> None:
        """Args:
        base: the student's model at version 0, before an engine has it.
        """
        self._weights: TeacherWeights = settings.teacher_weights
        self._reference: Reference | None = None
        """Weights other than the student's; None: there are none."""
        averages_on = None
        if self._weights == "ema":
            averages_on = device if settings.offload == "none" else torch.device("cpu")
        if self._weights != "live":
            self._reference = (Added if adapted(base) else Copied)(base, device, averages_on)

    @torch.no_grad()
    def voices(self, student: Engine, rows: Rows, settings: TrainSettings) -> tuple[Voice, ...]:
        """What the teacher says of completion tokens: hidden states of one model, or of two that share its logits.

        All ranks together.
        """
        live = self._live(settings)
        other = self._other(student, rows, settings)
        found = [] if other is None else [other]
        if live > 0.0:
            hidden_ND = last_hidden(student.model, rows, student.module)
            found.append(Voice(live, Head(student.model, settings.temperature), hidden_ND))
        return tuple(found)

    @torch.no_grad()
    def measured(
        self, student: Engine, rows: Rows, of_logits: Callable[[Tensor, slice], Tensor], settings: TrainSettings
    ) -> Tensor:
        """One number for each completion token of `rows`, [N], read off the teacher's logits (`head.measured`).

        All ranks together.
        """
        if self._reference is not None and self._live(settings) == 0.0:
            with self._reference.read(student) as (model, forward):
                return measured(model, rows, of_logits, settings.temperature, forward)
        other = self._other(student, rows, settings)
        return measured(student.model, rows, of_logits, settings.temperature, student.module, beside=other)

    def _live(self, settings: TrainSettings) -> float:
        """The student's own share of the teacher's logits."""
        return {"live": 1.0, "trust_region": settings.teacher_ema}.get(self._weights, 0.0)

    def _other(self, student: Engine, rows: Rows, settings: TrainSettings) -> Voice | None:
        """The part of weights that are not the student's; None where there is none."""
        share = 1.0 - self._live(settings)
        if self._reference is None or share <= 0.0:
            return None
        with self._reference.read(student) as (model, forward):
            return Voice(share, Head(model, settings.temperature), last_hidden(model, rows, forward))

    def follow(self, student: Engine, rate: float) -> None:
        """Move towards the student by `rate`, where these weights move; all ranks together."""
        if self._reference is not None and self._reference.average is not None:
            self._reference.follow(student, rate)

    def state(self) -> dict[str, Tensor]:
        """What this rank keeps of weights that move, for a checkpoint."""
        average = None if self._reference is None else self._reference.average
        return {} if average is None else average.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave on the same rank of as many; all ranks together.

        Raises:
            KeyError: when the state is of another model or another number of ranks.
        """
        if self._reference is not None and self._reference.average is not None:
            self._reference.average.restore(state)
