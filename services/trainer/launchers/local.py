"""Starting and ending the job processes of this machine: one per run, none after the service.

Invariants:
- At most one process trains a run. Two services, or a service and what its killed predecessor left behind, can
  at worst wait for each other: the job process holds the run's lock (`Spool.lock`).
- A process is ended by its id *and* start time, so a reused id never hits a stranger.
- A process that ends without an answer is started again a few times; it resumes from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pmd.services.common.jobs import Retryable
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.waiting import Away
from pmd.services.trainer.job.process import ProcessId
from pmd.services.trainer.job.spool import Spool, write_atomically
from pmd.services.trainer.launchers import END_PATIENCE_S, POLL_S, outcome, record

log = logging.getLogger(__name__)

RESTARTS = 2
"""Starts after the first, per step: a process that dies three times on one step has a cause that stays."""

COMPUTE_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # on shared cores, threads that spin while they wait cost a factor of 20
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONSAFEPATH": "1",  # a folder named `pmd` where the user stands is not ours; also for torchrun's children
}


OTHERS_RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)
"""What another launcher tells the ranks that it starts; a service started by one must not pass it on."""


def _environment(service: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job process, from the service's own."""
    foreign = {k for k in service if k in OTHERS_RANKS or k.startswith(("TORCHELASTIC_", "PET_"))}
    return COMPUTE_ENVIRONMENT | {k: v for k, v in service.items() if k not in {*foreign, "PMD_TOKEN"}}


class LocalLauncher:
    """Job processes below one folder, started when a step needs them; safe to use from many threads."""

    def __init__(self, root: Path, *, nproc: int, idle_s: float) -> None:
        """Args:
        root: folder of all runs' spools.
        nproc: processes per run; more than one go under torchrun.
        idle_s: a job process without work ends after this many seconds.
        """
        self._root = root
        self._nproc = nproc
        self._idle_s = idle_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._closed = False

    def spool(self, run: str) -> Spool:
        return Spool(self._root / run)

    def details(self) -> dict[str, Any]:
        return {"nproc": self._nproc}

    def train(self, request: TrainRequest, check: Callable[[], None]) -> TrainResult:
        """Do a step in the run's process; giving up ends it, in the middle of the step if it must.

        Raises:
            Retryable: also when the process keeps dying.
        """
        spool = self.spool(request.run)
        version = request.from_version
        with self._guard:
            lock = self._locks.setdefault(request.run, threading.Lock())
        with lock:
            record(spool, request, lambda: self._end(self._children.get(request.run)))
            starts = 0
            while True:
                running = self._running(request.run)
                # After that look: a process that ended with its run's last step has recorded it.
                if (result := outcome(spool, version)) is not None:
                    return result
                try:
                    check()  # after that look too: a process that ended because we are closing is not started again
                except Exception:
                    with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed; why we give up is the answer
                        self._end(self._children.get(request.run))
                    raise
                if not running:
                    if starts > RESTARTS:
                        raise Retryable(
                            f"the job process of run {request.run} ended {starts} times; see {spool.root / 'log'}"
                        )
                    self._start(request.run)
                    starts += 1
                time.sleep(POLL_S)

    def prepare(self, run: str, most: int) -> None:
        """Start the process of a run that has no step to do yet, unless `most` processes live: it takes as long as the
        first rollouts."""
        with self._guard:
            lock = self._locks.setdefault(run, threading.Lock())
            living = sum(child.poll() is None for child in self._children.values())
        if living >= most or not lock.acquire(blocking=False):
            return
        try:
            if not self._running(run):
                self.spool(run).root.mkdir(parents=True, exist_ok=True)
                self._start(run)
        finally:
            lock.release()

    def release(self, run: str) -> None:
        """End the process of a run that does no step. A later step starts another, which resumes."""
        with self._guard:
            lock = self._locks.setdefault(run, threading.Lock())
        if not lock.acquire(blocking=False):
            return  # at a step, by a job that has an end of its own
        try:
            self._end(self._children.get(run))
        finally:
            lock.release()

    def _running(self, run: str) -> bool:
        child = self._children.get(run)
        return child is not None and child.poll() is None

    def _start(self, run: str) -> None:
        with self._guard:
            if self._closed:
                raise Away("the trainer service is stopping")
            # Polling reaps: without it each run that has ended leaves a zombie.
            self._children = {name: child for name, child in self._children.items() if child.poll() is None}
            spool = self.spool(run)
            self._end_predecessor(spool)
            module = ["-m", "pmd.services.trainer.job.job", "--spool", str(spool.root), "--idle-s", str(self._idle_s)]
            parent = ["--parent", ProcessId.me().model_dump_json()]
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self._nproc}"]
            command = [sys.executable, *(torchrun if self._nproc > 1 else []), *module, *parent]
            with (spool.root / "log").open("ab") as output:
                child = subprocess.Popen(
                    command,
                    env=_environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # a signal to the service's terminal is not for its training
                )
            self._children[run] = child
            if (identity := ProcessId.of(child.pid)) is not None:
                write_atomically(spool.process_file, identity.model_dump_json())
            log.info("job process started", extra={"run": run, "pid": child.pid})

    def _end_predecessor(self, spool: Spool) -> None:
        """End the process of a service that was killed, if it still lives; it would end by itself soon."""
        if not spool.process_file.is_file():
            return
        stale = ProcessId.model_validate_json(spool.process_file.read_text())
        if stale.alive:
            log.warning("ending the job process of an earlier service", extra={"pid": stale.pid})
            with contextlib.suppress(ProcessLookupError):
                os.killpg(stale.pid, signal.SIGKILL)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            children = list(self._children.values())
        for child in children:
            self._end(child)

    @staticmethod
    def _end(child: subprocess.Popen[bytes] | None) -> None:
        """Kill a job process; the ranks below torchrun notice and end too."""
        if child is not None and child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(END_PATIENCE_S)
