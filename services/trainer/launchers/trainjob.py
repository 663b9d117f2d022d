"""A Kubeflow TrainJob per run, whose rank 0 takes the steps from the run's spool on a volume that all pods mount.

Invariants:
- A run has one TrainJob at most, by its name: who finds it there adopts it. It outlives the service; the next one goes
  on with it.
- That its processes work is told by the run's lock, which rank 0 holds once all ranks have joined; that a step is done
  by the spool. The cluster is asked only whether the TrainJob is still to come, and for what went wrong.
- A TrainJob that failed, or ended before the step was done, is made anew a few times; so is one whose cause to end was
  a killed pod. The process resumes from its last checkpoint.
- What the cluster has no room for, holds back (suspended) or is away for is waited for, with the reason; that time does
  not count towards `start_s`, nor a TrainJob that ended in it towards those of the step. What has another reason not to
  start within `start_s` has failed, with that reason.

A run that is released has its TrainJob deleted and not suspended: all that it knows is in the spool, and one that is
resumed after its TrainingRuntime has changed is refused by Trainer 2.0.0 without a word in its status.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pmd.services.common.jobs import HandedOver, Retryable
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.waiting import Away
from pmd.services.trainer.job.spool import Spool
from pmd.services.trainer.launchers import POLL_S, outcome, record
from pmd.services.trainer.launchers.kubeflow import GROUP, VERSION, Seen, Shape, TrainJobs, job_name
from pmd.services.trainer.launchers.kubernetes import Kubernetes, Refused

log = logging.getLogger(__name__)

RESTARTS = 2
"""TrainJobs after the first, per step: one that ends three times on one step has a cause that stays."""
LOOK_S = 2.0
"""How often the cluster is asked about a TrainJob while its step is done."""
PATIENCE_S = 30.0
"""How long a step waits for its TrainJob before it says so."""


@dataclass
class _Watch:
    """What is known of a run's TrainJob from one look to the next."""

    uid: str = ""
    quiet_since: float = field(default_factory=time.monotonic)
    """Since when nobody holds the run's lock; by the monotonic clock."""
    version: int = -1
    """The step that `starts` is about."""
    starts: int = 0
    """TrainJobs that were made for it."""


class TrainJobLauncher:
    """TrainJobs in the service's own namespace; safe to use from many threads."""

    def __init__(self, root: Path, cluster: Kubernetes, shape: Shape, *, patience_s: float = PATIENCE_S) -> None:
        """Args:
        root: folder of all runs, at the same place in the pods; a run's spool is below its own.
        shape: what its processes are.
        patience_s: how long a step waits for its TrainJob before it says so.
        """
        self._root = root
        self._shape = shape
        self._jobs = TrainJobs(cluster, shape)
        self._patience_s = patience_s
        self._watched: dict[str, _Watch] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def spool(self, run: str) -> Spool:
        return Spool(self._root / run / "spool")

    def details(self) -> dict[str, Any]:
        self._jobs.check()
        shape = {"nodes": self._shape.nodes, "nproc": self._shape.nproc, "runtime": self._shape.runtime}
        return shape | {"namespace": self._jobs.namespace, "trainjobs": f"{GROUP}/{VERSION}"}

    def train(self, request: TrainRequest, check: Callable[[], None]) -> TrainResult:
        """Have a step done by the run's TrainJob; giving up ends that, unless the step goes on without this process.

        Raises:
            Retryable: also when the TrainJob keeps ending, or does not start in time.
            Away: also while it waits for the cluster: at once where there is no room, else after some patience.
        """
        run, version = request.run, request.from_version
        spool = self.spool(run)
        with self._lock(run):
            record(spool, request, lambda: self._end(run))
            watch = self._watched.setdefault(run, _Watch())
            if watch.version != version:
                watch.version, watch.starts = version, 0
            due = 0.0
            while (result := outcome(spool, version)) is None:
                try:
                    check()
                except HandedOver:
                    raise
                except Exception:
                    with contextlib.suppress(Away, Retryable):  # it does the step then; why we give up is the answer
                        self._end(run)
                    raise
                if time.monotonic() >= due:
                    waits = self._tend(run, spool, watch)
                    if waits and time.monotonic() > watch.quiet_since + self._patience_s:
                        raise Away(waits)
                    due = time.monotonic() + LOOK_S
                time.sleep(POLL_S)
            return result

    def prepare(self, run: str, most: int) -> None:
        """Make the TrainJob of a run that has no step to do yet, unless `most` are at work or on their way."""
        with self._guard:
            crowded = len(self._watched) >= most
        lock = self._lock(run)
        if crowded or not lock.acquire(blocking=False):
            return
        try:
            if self._look(run) is None:
                self._create(run, self._watched.setdefault(run, _Watch()))
        finally:
            lock.release()

    def release(self, run: str) -> None:
        """Delete the TrainJob of a run that does no step. A later step makes another, which resumes."""
        lock = self._lock(run)
        if not lock.acquire(blocking=False):
            return  # at a step, by a job that has an end of its own
        try:
            self._end(run)
        finally:
            lock.release()

    def close(self) -> None:
        """Nothing ends: TrainJobs go on with what they are at, and end by themselves after some time without work."""

    def _lock(self, run: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(run, threading.Lock())

    def _name(self, run: str) -> str:
        return job_name(self._shape.runtime, run)

    def _look(self, run: str) -> Seen | None:
        try:
            return self._jobs.get(self._name(run), run)
        except Refused as refused:
            raise self._refused(run, refused) from refused

    def _tend(self, run: str, spool: Spool, watch: _Watch) -> str:
        """Bring a run's TrainJob one step nearer to work; says what is waited for, nothing when it is at work.

        Raises:
            Retryable: it keeps ending, does not start in time, or is refused.
            Away: it is suspended or has no room; the cluster, or Trainer, does not answer.
        """
        if spool.held():
            watch.quiet_since = time.monotonic()
            return ""
        name = self._name(run)
        seen = self._look(run)
        if seen is None:
            self._create(run, watch)
            return f"TrainJob {name} is starting"
        if seen.uid != watch.uid:
            watch.uid, watch.quiet_since = seen.uid, time.monotonic()
        if seen.ending:
            self._delete(run, seen)
            return f"the TrainJob {name} of before is being deleted; its pods must be gone first"
        if seen.end:
            return self._ended(run, spool, watch, seen)
        if seen.suspended:
            watch.quiet_since = time.monotonic()
            raise Away(f"TrainJob {name} is suspended, by somebody else: it goes on when its spec.suspend is false")
        return self._starting(run, spool, watch, seen)

    def _ended(self, run: str, spool: Spool, watch: _Watch, seen: Seen) -> str:
        if spool.waited_for() is None:
            return ""  # it recorded the step before it ended
        name, warning = self._name(run), self._jobs.warning(self._name(run), seen.created)
        why = "; ".join(filter(None, (f"{seen.end}: {seen.message}", warning.text if warning else "")))
        self._delete(run, seen)
        if warning is not None and warning.full:
            # Its ranks waited for one that found no room, and gave up.
            watch.starts -= 1
        elif (starts := watch.starts) > RESTARTS:
            watch.starts = 0
            raise Retryable(f"TrainJob {name} ended {starts} times ({why}); see {spool.root / 'log'}")
        log.warning("TrainJob ended before its step", extra={"run": run, "trainjob": name, "reason": why})
        return f"TrainJob {name} ended ({why}) and is made anew"

    def _starting(self, run: str, spool: Spool, watch: _Watch, seen: Seen) -> str:
        name = self._name(run)
        quiet = time.monotonic() - watch.quiet_since
        warning = self._jobs.warning(name, seen.created)
        seems = warning.text if warning else "the cluster warns of nothing, its processes may still be loading"
        reason = f"TrainJob {name} is not at work yet: {seems}"
        if warning is not None and warning.full:
            watch.quiet_since = time.monotonic()
            raise Away(reason)
        if quiet < self._shape.start_s:
            return reason
        self._delete(run, seen)
        watch.starts = 0  # the next try is another's
        raise Retryable(f"{reason} (after {quiet:.0f} s it was deleted); see {spool.root / 'log'}")

    def _create(self, run: str, watch: _Watch) -> None:
        self._jobs.check()
        spool, name = self.spool(run), self._name(run)
        spool.root.mkdir(parents=True, exist_ok=True)
        try:
            made = self._jobs.create(name, run, spool.root)
        except Refused as refused:
            raise self._refused(run, refused) from refused
        watch.starts += made
        log.info("TrainJob made" if made else "TrainJob adopted", extra={"run": run, "trainjob": name})

    def _delete(self, run: str, seen: Seen) -> None:
        try:
            self._jobs.delete(self._name(run), seen)
        except Refused as refused:
            raise self._refused(run, refused) from refused

    def _end(self, run: str) -> None:
        """Have a run's TrainJob deleted, if there is one; its pods are gone some time after."""
        self._watched.pop(run, None)  # first, as the cluster may be away: what comes after is another try
        seen = self._look(run)
        if seen is not None:
            self._delete(run, seen)
            log.info("TrainJob deleted", extra={"run": run, "trainjob": self._name(run)})

    def _refused(self, run: str, refused: Refused) -> Retryable:
        return Retryable(f"the cluster refuses TrainJob {self._name(run)}: {refused}")
