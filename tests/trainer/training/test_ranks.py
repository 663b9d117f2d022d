"""Ranks under torchrun: what two of them train, and what is left when one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SETTINGS, TinyRun

from pmd.services.common.artifacts import read_table
from pmd.services.common.wire import Weights
from pmd.services.trainer.job.process import ProcessId


def ranks_of(torchrun: subprocess.Popen[bytes]) -> list[ProcessId]:
    """The processes that torchrun started, by rank."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = [variable.removeprefix(b"RANK=") for variable in variables if variable.startswith(b"RANK=")]
        if rank and (process := ProcessId.of(int(child))):
            ranks[int(rank[0])] = process
    return [ranks[i] for i in range(len(ranks))]


ROUTED = {"loss": "blend", "route": "failed", "teacher_entropy_beta": 1.0, "reference_kl": 0.1}
"""What makes ranks run the models most often, each on other rollouts."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "changes"),
    [
        (0, "fp32", {}),
        (2, "fp32", {}),
        (3, "fp32", {}),
        (2, "bf16", {}),
        (3, "bf16", {}),
        *((stage, "fp32", ROUTED) for stage in (0, 3)),
    ],
)
def test_two_ranks_train_what_one_does_and_resume(
    tmp_path: Path, base: Weights, stage: int, precision: str, changes: dict[str, Any]
) -> None:
    changes = {"zero_stage": stage, "precision": precision, "lr": 1e-3, "micro_tokens": 90, **changes}
    settings = SETTINGS.model_copy(update=changes)
    runs = []
    for nproc in (1, 2):
        folder = tmp_path / str(nproc)
        folder.mkdir()
        run = TinyRun(folder, base, settings)
        run.train(run.request(0), nproc=nproc)
        run.train(run.request(1), nproc=nproc)  # a fresh process: resumes from the checkpoint
        runs.append(run)
    one, two = runs
    for version in (0, 1):
        left, right = one.spool.result(version), two.spool.result(version)
        assert left is not None
        assert right is not None
        exact = precision == "fp32"
        for name in ("loss", "grad_norm", "tokens", "entropy", "mismatch_kl"):
            assert right.metrics[name] == pytest.approx(left.metrics[name], rel=1e-3 if exact else 0.05), name
        assert left.taught is not None
        assert right.taught is not None
        of_one, of_two = read_table(left.taught), read_table(right.taught)
        assert [row["rollout_id"] for row in of_one] == [row["rollout_id"] for row in of_two]
        close = 2e-3 if exact else 0.1
        for mine, theirs in zip(of_one, of_two, strict=True):
            assert theirs["teacher_logprobs"] == pytest.approx(mine["teacher_logprobs"], abs=close)
    for name, tensor in two.tensors(2).items():
        torch.testing.assert_close(tensor, one.tensors(2)[name], atol=3e-4 if precision == "fp32" else 2e-2, rtol=0)


KILLED = SETTINGS.model_copy(update={"micro_tokens": 90, "zero_stage": 3})
LONG = {"problems": 96}
"""Seconds of a step, in which the ranks speak to each other all the time."""


def weights(run: TinyRun, version: int) -> bytes:
    return (run.folder / "weights" / f"v{version:04d}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, base: Weights) -> bytes:
    """What two ranks that nobody kills end with."""
    run = TinyRun(tmp_path_factory.mktemp("calm"), base, KILLED)
    run.train(run.request(0), run.request(1, size=LONG), nproc=2)
    return weights(run, 2)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["torchrun", "rank 0", "rank 1"])
def test_ranks_that_lose_one_another_end_without_a_word_and_the_next_ones_resume(
    tmp_path: Path, base: Weights, killed: str, calm: bytes
) -> None:
    run = TinyRun(tmp_path, base, KILLED)
    run.spool.submit(run.request(0))
    process = run.start(nproc=2)
    run.wait(0, process)
    ranks = ranks_of(process)
    long = run.request(1, size=LONG)
    run.spool.submit(long)
    time.sleep(0.5)
    os.kill(process.pid if killed == "torchrun" else ranks[int(killed[-1])].pid, signal.SIGKILL)
    assert process.wait(30) != 0
    deadline = time.monotonic() + 30
    while any(rank.alive for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert run.spool.error(1) is None
    run.train(long, nproc=2)
    assert weights(run, 2) == calm
