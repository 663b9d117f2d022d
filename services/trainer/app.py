"""The trainer service: REST in front of one job process per run.

Invariants: this process never imports torch; a step is a job of kind `train`, whose state is the run's spool, so
the service can be killed and started again at any time.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from pmd.services.common.app import NotReady, create_service
from pmd.services.common.artifacts import local_path
from pmd.services.common.holdings import holdings
from pmd.services.common.jobs import JobContext, JobKind
from pmd.services.common.jobstore import JobStore
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.runner import JobRunner
from pmd.services.common.waiting import Away
from pmd.services.trainer.job.spool import LOCK, Spool
from pmd.services.trainer.launchers import Launcher
from pmd.services.trainer.launchers.external import ExternalLauncher
from pmd.services.trainer.launchers.kubeflow import Shape
from pmd.services.trainer.launchers.kubernetes import Kubernetes
from pmd.services.trainer.launchers.local import LocalLauncher
from pmd.services.trainer.launchers.trainjob import TrainJobLauncher
from pmd.services.trainer.routes import routes
from pmd.services.trainer.settings import TrainerSettings

FORGET_PATIENCE_S = 2.0
"""How long a job process that has been told to end may take until its run can be forgotten."""


def open_launcher(settings: TrainerSettings, root: Path) -> Launcher:
    """The launcher that `settings` name.

    Args:
        root: folder of spools, where processes of this machine do the steps.

    Raises:
        NotInAPod: TrainJobs are wanted, and this is no pod that may make them.
    """
    if settings.trainer_launcher == "external":
        return ExternalLauncher(root)
    if settings.trainer_launcher == "local":
        return LocalLauncher(root, nproc=settings.trainer_nproc, idle_s=settings.trainer_idle_s)
    shape = Shape(
        runtime=settings.trainer_runtime,
        nodes=settings.trainer_nodes,
        nproc=settings.trainer_nproc,
        idle_s=settings.trainer_idle_s,
        start_s=settings.trainer_start_s,
    )
    return TrainJobLauncher(local_path(settings.runs_uri()), Kubernetes.of_this_pod(), shape)


def forget(spool: Spool) -> int:
    """Remove a run's spool, its checkpoints included; the bytes that this frees.

    Raises:
        SpoolBusy: a job process has it.
    """
    if not spool.root.exists():
        return 0
    with spool.lock(FORGET_PATIENCE_S):
        freed = sum(path.stat().st_size for path in spool.root.rglob("*") if path.is_file())
        for path in spool.root.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(spool.root)  # NFS keeps a file that is open, and so its folder
    return freed


def create_app(settings: TrainerSettings) -> FastAPI:
    """The service."""
    folder = settings.service_dir("trainer")
    launcher = open_launcher(settings, folder / "runs")

    def train(request: TrainRequest, context: JobContext) -> TrainResult:
        return launcher.train(request, context.check)

    jobs = JobRunner(
        "trainer",
        JobStore("trainer", settings.jobs_database("trainer")),
        {"train": JobKind(TrainRequest, train)},
        workers=settings.trainer_runs,
    )

    def ready() -> dict[str, Any]:
        try:
            versions = {name: importlib.metadata.version(name) for name in ("torch", "deepspeed")}
        except importlib.metadata.PackageNotFoundError as error:
            raise NotReady(f"{error.name} is not installed; install the extra 'trainer'") from error
        try:
            details = launcher.details()
        except Away as reason:
            raise NotReady(str(reason)) from reason
        return {"launcher": settings.trainer_launcher, **details, "precisions": ["fp32", "bf16"], **versions}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.recover()
        yield
        jobs.close()
        launcher.close()

    app = create_service("trainer", settings, ready=ready, lifespan=lifespan)
    app.include_router(jobs.router())
    app.include_router(
        holdings(
            release=launcher.release,
            prepare=lambda run: launcher.prepare(run, settings.trainer_runs),
            forget=lambda run: forget(launcher.spool(run)),
        )
    )

    app.state.launcher = launcher
    app.include_router(routes)
    return app
