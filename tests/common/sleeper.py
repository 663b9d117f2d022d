"""A service whose jobs take a while and write down who works on them: `python -m tests.common.sleeper --port N`."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from pmd.services.common import jobstore, runner
from pmd.services.common.app import create_service
from pmd.services.common.jobs import JobContext, JobKind
from pmd.services.common.jobstore import JobStore
from pmd.services.common.runner import JobRunner
from pmd.services.common.serve import serve
from pmd.services.common.settings import WorkerSettings
from pmd.services.common.strict import Strict

BEAT_S = 0.02
LEASE_S = 3.0


class Sleep(Strict):
    seconds: float
    log: str


class Slept(Strict):
    pid: int


def sleep(request: Sleep, job: JobContext) -> Slept:
    """Write a line as long as the job is worked on."""
    until = time.monotonic() + request.seconds
    pid = os.getpid()
    with (Path(request.log) / f"{job.key}.{pid}").open("a", buffering=1) as log:
        while time.monotonic() < until:
            job.check()
            log.write(f"{time.monotonic()}\n")
            time.sleep(BEAT_S)
    return Slept(pid=pid)


def create_app(settings: WorkerSettings) -> FastAPI:
    """The service."""
    jobs = JobRunner(
        "sleeper", JobStore("sleeper", settings.jobs_database("sleeper")), {"sleep": JobKind(Sleep, sleep)}, workers=2
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.recover()
        yield
        jobs.close()

    app = create_service("sleeper", settings, ready=dict, lifespan=lifespan)
    app.include_router(jobs.router())
    return app


if __name__ == "__main__":
    jobstore.LEASE_S = runner.LEASE_S = LEASE_S
    runner.RENEW_S = 0.3
    serve("gateway", create_app, WorkerSettings)
