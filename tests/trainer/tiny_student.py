"""A student and its teacher inside the test process."""

from __future__ import annotations

from pathlib import Path

import torch

from pmd.services.common.options import TrainSettings
from pmd.services.trainer.training.batch import TrainBatch
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.model import load_student
from pmd.services.trainer.training.objectives import needs_teacher
from pmd.services.trainer.training.teacher import Teacher
from pmd.services.trainer.training.update import Stopwatch, Updater


class Student:
    """A fresh student and teacher of the tiny base."""

    def __init__(self, base: Path, device: torch.device, settings: TrainSettings) -> None:
        model = load_student(base, settings, seed=0)
        self.teacher = Teacher(model, settings, device) if needs_teacher(settings) else None
        self.engine = Engine(model, settings, device)
        self.updater = Updater(self.engine, self.teacher)
        self.settings = settings
        self.device = device

    def step(self, batch: TrainBatch, lr: float = 1e-2) -> dict[str, float]:
        return self.updater.step(batch, self.settings, lr, Stopwatch(self.device))

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self.engine.trained_fp32()}


def logits_of(model: torch.nn.Module, prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
    """What a model says before each token of a completion, alone and unpadded."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[*prompt, *completion]])).logits
    return torch.as_tensor(out[0, len(prompt) - 1 : -1])
