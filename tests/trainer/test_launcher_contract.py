"""What every launcher promises; the next one joins `LAUNCHERS` and must keep it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from tiny_run import TinyRun

from pmd.services.common.wire import Weights
from pmd.services.trainer.job.spool import SpoolConflict
from pmd.services.trainer.launchers import Launcher, StepFailed
from pmd.services.trainer.launchers.external import ExternalLauncher
from pmd.services.trainer.launchers.kubeflow import Shape
from pmd.services.trainer.launchers.local import LocalLauncher
from pmd.services.trainer.launchers.trainjob import TrainJobLauncher


class GivenUpError(Exception):
    """Nobody waits for the step any more."""


def local(root: Path, _: TinyRun) -> tuple[Launcher, Callable[[], None]]:
    return LocalLauncher(root, nproc=1, idle_s=60.0), lambda: None


def external(root: Path, run: TinyRun) -> tuple[Launcher, Callable[[], None]]:
    """The process that an operator would start, on the same folder."""
    process: subprocess.Popen[bytes] = run.start()

    def end() -> None:
        process.kill()
        process.wait()

    return ExternalLauncher(root), end


def trainjob(root: Path, run: TinyRun) -> tuple[Launcher, Callable[[], None]]:
    """The process that a pod would run; the cluster's API is played, at the wire."""
    cluster = FakeCluster(run.folder)
    shape = Shape(runtime="rel-training", nodes=1, nproc=1, idle_s=60.0, start_s=3600.0)
    return TrainJobLauncher(root, cluster.client(), shape, patience_s=3600.0), cluster.close


LAUNCHERS = {"local": local, "external": external, "trainjob": trainjob}


@pytest.fixture(params=LAUNCHERS)
def promised(request: pytest.FixtureRequest, tmp_path: Path, base: Weights) -> Iterator[tuple[Launcher, TinyRun]]:
    run = TinyRun(tmp_path, base)
    run.spool = type(run.spool)(tmp_path / "runs" / "tiny")
    launcher, end = LAUNCHERS[request.param](tmp_path / "runs", run)
    yield launcher, run
    launcher.close()
    end()


def wait() -> None:
    """Somebody who is patient."""


def test_a_launcher_keeps_its_contract(promised: tuple[Launcher, TinyRun]) -> None:
    launcher, run = promised
    first = run.request(0)

    asked = 0

    def gives_up_at_once() -> None:
        nonlocal asked
        asked += 1
        raise GivenUpError

    with pytest.raises(GivenUpError):
        launcher.train(first, gives_up_at_once)
    assert asked == 1
    assert launcher.spool("tiny").request(0) == first, "a step that was given up stays recorded"

    done = launcher.train(first, wait)
    assert done.weights.version == 1
    written = run.tensors(1)
    assert launcher.train(first, wait) == done, "the same request finds the recorded result"

    with pytest.raises(SpoolConflict, match="can't be redone"):
        launcher.train(run.request(0, lr_scale=0.5), wait)
    assert all((run.tensors(1)[name] == tensor).all() for name, tensor in written.items())

    with pytest.raises(StepFailed, match="reward"):
        launcher.train(run.request(1, verdicts=run.request(1).rollouts), wait)
