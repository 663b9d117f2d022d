"""Settings of the trainer service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pmd.services.common.settings import WorkerSettings


class TrainerSettings(WorkerSettings):
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
