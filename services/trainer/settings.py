"""Settings of the trainer service."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pmd.services.common.settings import WorkerSettings


class TrainerSettings(WorkerSettings):
    """Settings of the trainer service; environment variables `PMD_...`."""

    trainer_launcher: Literal["local", "external", "trainjob"] = "local"
    """local: the service starts a job process per run. trainjob: it has Kubeflow Trainer start one, in pods of its own,
    for a service in a pod whose service account may (docs/deploy.md). external: something else runs
    `python -m pmd.services.trainer.job.job` on the run's spool, and the service only talks to it. When a run is
    cancelled, the processes of the first two end at once; an external one does the step that it is at, and ends when it
    has waited for long enough."""
    trainer_nproc: int = Field(default=1, ge=1)
    """Processes (GPUs) per run under the local launcher, per pod under trainjob; more than one go under torchrun."""
    trainer_nodes: int = Field(default=1, ge=1, le=999)
    """Pods per run, under trainjob. A run that has begun keeps its number of processes."""
    trainer_runtime: str = ""
    """Name of the TrainingRuntime that TrainJobs are made of, in the service's own namespace."""
    trainer_start_s: float = Field(default=1800.0, gt=0.0)
    """Seconds that a TrainJob may take until all its processes have joined. After that it has failed, unless it waits
    for room in the cluster."""
    trainer_idle_s: float = Field(default=600.0, gt=0.0)
    """Seconds without work after which a job process ends and frees its memory; that of a run which has ended or
    pauses does so at once."""
    trainer_runs: int = Field(default=4, ge=1)
    """Runs that may train at the same time."""

    @model_validator(mode="after")
    def _trainjob(self) -> Self:
        if self.trainer_launcher == "trainjob" and not self.trainer_runtime:
            raise ValueError("PMD_TRAINER_RUNTIME is empty: PMD_TRAINER_LAUNCHER=trainjob needs a TrainingRuntime")
        if self.trainer_launcher != "trainjob" and (self.trainer_nodes > 1 or self.trainer_runtime):
            raise ValueError("PMD_TRAINER_NODES and PMD_TRAINER_RUNTIME are for PMD_TRAINER_LAUNCHER=trainjob alone")
        return self
