"""The trainer service: REST in front of one job process per run.

Invariants: this process never imports torch; a step is a job of kind `train`, whose state is the run's spool, so
the service can be killed and started again at any time.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI
from fastapi import Path as PathParam
from pydantic import Field

from pmd.services.common.app import NotReady, create_service, known_query
from pmd.services.common.holdings import holdings
from pmd.services.common.jobs import JobContext, JobKind, JobStore
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.runner import JobRunner
from pmd.services.common.settings import ServiceSettings
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Slug, Weights
from pmd.services.trainer.launchers import Launcher
from pmd.services.trainer.launchers.external import ExternalLauncher
from pmd.services.trainer.launchers.local import LocalLauncher


class TrainerSettings(ServiceSettings):
    """Settings of the trainer service; environment variables `PMD_...`."""

    trainer_launcher: Literal["local", "external"] = "local"
    """local: the service starts a job process per run. external: something else (a Kubernetes TrainJob) runs
    `python -m pmd.services.trainer.job.job` on the run's spool, and the service only talks to it. When a run is
    cancelled, the local process ends at once; an external one does the step that it is at, and ends when it has waited
    for long enough."""
    trainer_nproc: int = Field(default=1, ge=1)
    """Processes (GPUs) per run under the local launcher; more than one go under torchrun."""
    trainer_idle_s: float = Field(default=600.0, gt=0.0)
    """Seconds without work after which a job process ends and frees its memory; that of a run which has ended or
    pauses does so at once."""
    trainer_runs: int = Field(default=4, ge=1)
    """Runs that may train at the same time."""


class Published(Strict):
    """The policy versions that a run has published, oldest first; version 0 is the base and not among them."""

    run: str
    weights: list[Weights]


def open_launcher(settings: TrainerSettings, root: Path) -> Launcher:
    """The launcher that `settings` name, with its spools below `root`."""
    if settings.trainer_launcher == "external":
        return ExternalLauncher(root)
    return LocalLauncher(root, nproc=settings.trainer_nproc, idle_s=settings.trainer_idle_s)


def create_app(settings: TrainerSettings) -> FastAPI:
    """The service."""
    folder = settings.service_dir("trainer")
    launcher = open_launcher(settings, folder / "runs")

    def train(request: TrainRequest, context: JobContext) -> TrainResult:
        return launcher.train(request, context.check)

    jobs = JobRunner(
        "trainer",
        JobStore(folder / "jobs.sqlite"),
        {"train": JobKind(TrainRequest, train)},
        workers=settings.trainer_runs,
    )

    def ready() -> dict[str, Any]:
        try:
            versions = {name: importlib.metadata.version(name) for name in ("torch", "deepspeed")}
        except importlib.metadata.PackageNotFoundError as error:
            raise NotReady(f"{error.name} is not installed; install the extra 'trainer'") from error
        return {
            "launcher": settings.trainer_launcher,
            "nproc": settings.trainer_nproc,
            "precisions": ["fp32", "bf16"],
            **versions,
        }

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.recover()
        yield
        jobs.close()
        launcher.close()

    app = create_service("trainer", settings, ready=ready, lifespan=lifespan)
    app.include_router(jobs.router())
    app.include_router(
        holdings(release=launcher.release, prepare=lambda run: launcher.prepare(run, settings.trainer_runs))
    )

    @app.get("/v1/runs/{run}/weights", tags=["weights"], dependencies=[Depends(known_query)])
    def list_weights(run: Annotated[Slug, PathParam()]) -> Published:
        """Versions that a run has published; empty for a run that has trained no step here."""
        return Published(run=run, weights=launcher.spool(run).published())

    return app
