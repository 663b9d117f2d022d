from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

if TYPE_CHECKING:
    import torch

    from pmd.services.common.wire import Weights


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Version 0 of every tiny run."""
    from tiny_run import make_base

    return make_base(tmp_path_factory.mktemp("base") / "v0000")


@pytest.fixture(scope="session")
def base_folder(base: Weights) -> Path:
    return Path(base.uri.removeprefix("file://"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A process group of one, for tests that train inside the test process."""
    from pmd.services.trainer.training.engine import start_ranks

    return start_ranks()
