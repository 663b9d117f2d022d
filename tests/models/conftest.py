from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

if TYPE_CHECKING:
    import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A process group of one, for tests that train inside the test process."""
    from pmd.services.trainer.training.engine import start_ranks

    return start_ranks()
