"""Checkpoints: everything that the next training step depends on besides its request.

Invariants:
- A checkpoint's folder is complete or absent: all ranks write below a temporary name, rank 0 renames.
- It holds model, optimizer moments, teacher, random state, and the result of the step that led to it, so a
  process that is killed between checkpoint and result can still give that result.
- The newest two are kept, and none once the last step is recorded: nothing follows that could need one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from pmd.services.common.requests import TrainResult
from pmd.services.trainer.job.spool import Spool
from pmd.services.trainer.training.engine import Engine
from pmd.services.trainer.training.teacher import Teacher

KEPT = 2


def save(spool: Spool, version: int, result: TrainResult, engine: Engine, teacher: Teacher | None) -> None:
    """Write the checkpoint at `version`; all ranks together."""
    part = spool.checkpoints / "part.tmp"
    if engine.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(spool.checkpoint(version), ignore_errors=True)
        part.mkdir(parents=True)
    engine.agree(True)
    engine.save(part, {"result": result.model_dump_json()})
    state: dict[str, Any] = {"teacher": teacher.state() if teacher else {}, "rng": torch.get_rng_state()}
    if engine.device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(engine.device)
    torch.save(state, _rank_file(part, engine))
    if engine.agree(True) and engine.rank == 0:
        part.rename(spool.checkpoint(version))
        for old in spool.saved_versions()[:-KEPT]:
            shutil.rmtree(spool.checkpoint(old))


def drop(spool: Spool) -> None:
    """Remove all checkpoints."""
    shutil.rmtree(spool.checkpoints, ignore_errors=True)


def load(spool: Spool, version: int, engine: Engine, teacher: Teacher | None) -> TrainResult:
    """Restore the checkpoint at `version` into a fresh engine and teacher; all ranks together.

    Returns:
        The result of the step that led to it.

    Raises:
        RuntimeError: when it was written by another number of ranks or at another ZeRO stage.
    """
    folder = spool.checkpoint(version)
    path = _rank_file(folder, engine)
    if not path.is_file():
        raise RuntimeError(f"{folder} was not written by {engine.world} rank(s); restore their number to go on")
    facts = engine.load(folder)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if teacher:
        teacher.restore(state["teacher"])
    torch.set_rng_state(state["rng"])
    if engine.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], engine.device)
    return TrainResult.model_validate_json(facts["result"])


def _rank_file(folder: Path, engine: Engine) -> Path:
    return folder / f"rank{engine.rank}of{engine.world}.pt"
