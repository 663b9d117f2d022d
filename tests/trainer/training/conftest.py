"""A student, and what it learns from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SETTINGS, WINDOW, rows
from tiny_student import Student
from transformers import AutoTokenizer

from pmd.services.common.requests import TrainRequest
from pmd.services.common.wire import Ref, Weights
from pmd.services.trainer.training.batch import TrainBatch, assemble


@pytest.fixture
def student(base_folder: Path, device: torch.device) -> Callable[..., Student]:
    return lambda **changes: Student(base_folder, device, SETTINGS.model_copy(update=changes))


@pytest.fixture
def batch(base: Weights, base_folder: Path) -> Callable[..., TrainBatch]:
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    nothing = Ref(uri="", sha256="", bytes=0)

    def make(edit: Callable[..., Any] | None = None, **changes: Any) -> TrainBatch:
        tables = rows()
        if edit:
            edit(*tables)
        request = TrainRequest(
            run="r",
            step=0,
            base=base,
            from_version=0,
            rollouts=nothing,
            verdicts=nothing,
            settings=SETTINGS.model_copy(update=changes),
            seed=0,
            out="",
        )
        return assemble(*tables, request, tokenizer, WINDOW)

    return make
