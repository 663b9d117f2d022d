"""Advance one run for some seconds: submit what comes next, wait for it, record it.

Invariants:
- Nothing here remembers anything: kill it at any line, call it twice, call it late, and the run ends with the same
  phases recorded once each. A job's key is a function of the record, its PUT is idempotent, its outcome is recorded
  in one fenced transaction.
- A phase is noted as submitted before its job is, so that cancelling a run finds every job that may exist.
- A failure that may pass is tried again under a new key, `max_attempts` times; then the run fails with the reason.
- Waiting is not failing (Law 12): a service or a storage out of reach, and a job that says what it waits for, cost no
  attempt and end no run, however long they take; the run says what it waits for until a person pauses or cancels it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from pmd.gateway.disk import free_bytes
from pmd.gateway.loop.alarms import alarms, at_the_end
from pmd.gateway.loop.gate import probe_prompts, tally
from pmd.gateway.loop.plan import first_of, next_phases, steps_complete
from pmd.gateway.loop.state import Phase, PhaseName, Record, Service, version_after
from pmd.gateway.registry.registry import Lease, LeaseLost, Registry
from pmd.gateway.registry.status import Desired
from pmd.gateway.views import RunStatus
from pmd.services.common.artifacts import ArtifactError, read_table
from pmd.services.common.client import ServiceClient, ServiceRefused, ServiceUnavailable
from pmd.services.common.jobs import ENDS, Job, JobStatus
from pmd.services.common.requests import RetrieveResult, VerifyResult

log = logging.getLogger(__name__)

BUDGET_S = 20.0
"""How long one call works; well below the broker's visibility timeout."""
POLL_S = 3.0
"""Longest wait for a job before looking again at what people ask for."""
POLL_MANY_S = 0.2
"""The same while several jobs run."""
RETRY_S = 1.0
RETRY_MAX_S = 60.0
WAIT_MAX_S = 15.0

Services = Mapping[Service, ServiceClient]


def advance(
    registry: Registry,
    services: Services,
    run: str,
    owner: str,
    budget_s: float = BUDGET_S,
    *,
    epoch: int | None = None,
    interrupts: tuple[type[Exception], ...] = (),
) -> float | None:
    """Advance `run` for about `budget_s` seconds.

    Args:
        epoch: leave the run alone when it has been claimed since it had this one.
        interrupts: exceptions by which the caller ends this call from outside; they say nothing about the run.

    Returns:
        Seconds after which it wants to be advanced again; None when it does not: it has ended, it is paused, or
        somebody else advances it.
    """
    # Nothing can be recorded after these: the lease lapses and somebody else goes on.
    not_the_runs_fault: tuple[type[Exception], ...] = (SQLAlchemyError, *interrupts)
    lease = registry.claim(run, owner, epoch=epoch)
    if lease is None:
        return None
    try:
        return _Tick(registry, services, run, lease).work(time.monotonic() + budget_s)
    except _Over as over:
        return over.delay
    except LeaseLost as lost:
        log.warning("lease lost", extra={"run": run, "reason": str(lost)})
        return None
    except not_the_runs_fault:
        raise
    except Exception as error:
        log.exception("run can't be advanced", extra={"run": run})
        with contextlib.suppress(LeaseLost):
            registry.finish(lease, RunStatus.FAILED, f"the controller can't go on: {type(error).__name__}: {error}")
        return None


class _Over(Exception):
    """The lease is given back; `delay` is when to come again, None for never."""

    def __init__(self, delay: float | None) -> None:
        super().__init__(delay)
        self.delay = delay


class _Tick:
    """One owner's work on one run."""

    def __init__(self, registry: Registry, services: Services, run: str, lease: Lease) -> None:
        self._registry = registry
        self._services = services
        self._lease = lease
        self._state, attempts = registry.state(run)
        self._failures = {at: attempt.failures for at, attempt in attempts.items()}
        self._open = {at for at, attempt in attempts.items() if attempt.status == "submitted"}
        self._desired: Desired = "run"
        self._starts = registry.run(run)["status"] == RunStatus.QUEUED

    def work(self, deadline: float) -> float | None:
        """Phase after phase, until the time is up, the run ends, or there is something to wait for."""
        if self._starts and self._state.recipe.trains:
            self._prepare()
        answered = False
        waiting = ""
        while True:
            desired = self._desired = self._registry.renew(self._lease, answered=answered)
            due = next_phases(self._state)
            if desired == "cancel":
                self._registry.finish(self._lease, RunStatus.CANCELLED)
                return None
            phases = [phase for phase in due if desired == "run" or (phase.step, phase.name) in self._open]
            if not phases or (waiting and desired == "pause"):  # what waits may do so for long, and goes on by itself
                if due:
                    self._registry.finish(self._lease, RunStatus.PAUSED)
                else:
                    self._registry.finish(self._lease, RunStatus.SUCCEEDED, alarms=at_the_end(self._state))
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                self._registry.release(self._lease)
                return 0.0
            wait = min(left, POLL_S if len(phases) == 1 else POLL_MANY_S)
            # Of several jobs the newest is the one that the run waits for.
            waits = [self._attend(phase, wait if phase is phases[-1] else 0.0) for phase in phases]
            waiting = next(filter(None, waits), "")
            if waiting:
                self._registry.waits(self._lease, waiting)
            answered = not waiting

    def _attend(self, phase: Phase, wait: float) -> str:
        """Submit or poll one phase and record its end; returns what its job waits for, empty when for nothing.

        Raises:
            _Over: when this leaves nothing to do now.
        """
        try:
            job = self._job(phase, wait)
        except ServiceUnavailable as error:
            raise self._wait_for(f"the {phase.call.service} service at {error}") from error
        except ServiceRefused as error:
            # 409: the key names another body, as after an upgrade that changed a request; a new key is new work.
            other = error.status == 409
            raise self._attempt_failed(phase, str(error), retryable=other, works=other) from error
        if job.status not in ENDS:
            return job.waiting or ""
        if job.status is not JobStatus.SUCCEEDED:
            message = job.error.message if job.error else "the job was cancelled at the service"
            raise self._attempt_failed(phase, message, retryable=job.error is None or job.error.retryable)
        try:
            result = phase.call.result.model_validate(job.result)
            facts = self._observe(phase, result)
        except ValidationError as error:
            message = f"the service answered no {phase.call.result.__name__}: {error}"
            raise self._attempt_failed(phase, message) from error
        except ArtifactError as error:
            raise self._attempt_failed(phase, str(error), retryable=True) from error
        except OSError as error:
            # The storage fails this process; what the job made may be whole.
            raise self._wait_for(f"the result of {phase.name} can't be read: {error}") from error
        self._record(phase, Record(result.model_dump(mode="json"), facts, job.seconds or 0.0))
        return ""

    def _job(self, phase: Phase, wait: float) -> Job:
        client = self._services[phase.call.service]
        if (phase.step, phase.name) not in self._open:
            body_hash = hashlib.sha256(phase.request.model_dump_json().encode()).hexdigest()
            self._registry.submitted(self._lease, phase, body_hash)
            self._open.add((phase.step, phase.name))
            job = client.submit(phase.key, phase.call.kind, phase.request)
            if job.status in ENDS:
                return job
        try:
            return client.poll(phase.key, wait)
        except ServiceRefused as error:
            if error.status != 404:
                raise
            log.warning("job unknown to its service, submitted again", extra={"job": phase.key})
            return client.submit(phase.key, phase.call.kind, phase.request)

    def _observe(self, phase: Phase, result: BaseModel) -> dict[str, Any]:
        """What the lead gate needs out of an artifact, recorded so that the plan stays a function of the record."""
        if not self._state.recipe.lead_gate:
            return {}
        if isinstance(result, VerifyResult) and phase.name in {PhaseName.VERIFY, PhaseName.PROBE_VERIFY}:
            return {"tally": tally(read_table(result.verdicts))}
        if isinstance(result, RetrieveResult) and phase.name is PhaseName.RETRIEVE:
            return {"probe": probe_prompts(read_table(result.contexts))}
        return {}

    def _record(self, phase: Phase, record: Record) -> None:
        state = self._state.with_record(phase.step, phase.name, record)
        step = max(0, steps_complete(state) - 1)
        published = phase.name is PhaseName.PUBLISH
        version = version_after(state.recipe, phase.step) if published else None
        first = first_of(self._state.recipe, phase.step, Service.MEMORY)
        edits = int(record.result.get("edits", 0)) if phase.name is first else 0
        raised = alarms(state, phase.step, phase.name, free_bytes=free_bytes(state.inputs.root))
        self._registry.succeeded(self._lease, phase, record, step=step, version=version, edits=edits, alarms=raised)
        self._state = state
        self._open.discard((phase.step, phase.name))
        self._failures.pop((phase.step, phase.name), None)

    def _attempt_failed(self, phase: Phase, message: str, *, retryable: bool = False, works: bool = False) -> _Over:
        """Record a failed attempt; the next one is due later, or the run fails.

        Args:
            works: what has its key at the service may still work.
        """
        at = (phase.step, phase.name)
        failures = self._failures.get(at, 0) + 1
        retry = retryable and failures < self._state.recipe.max_attempts
        self._registry.failed(self._lease, phase, message, retry=retry, works=works)
        if retry:
            delay = min(RETRY_S * 2 ** (failures - 1), RETRY_MAX_S) * random.uniform(0.5, 1.5)
            self._registry.release(self._lease, delay=delay)
            return _Over(delay)
        tried = f"failed {failures} times, last: " if retryable else ""
        self._registry.finish(self._lease, RunStatus.FAILED, f"step {phase.step}, {phase.name}: {tried}{message}")
        return _Over(None)

    def _wait_for(self, reason: str) -> _Over:
        """Come back later for what is out of reach; a run that shall pause does so now."""
        if self._desired == "pause":
            self._registry.finish(self._lease, RunStatus.PAUSED)
            return _Over(None)
        delay = min(RETRY_S + self._registry.waits(self._lease, reason) / 4, WAIT_MAX_S)
        self._registry.release(self._lease, delay=delay)
        return _Over(delay)

    def _prepare(self) -> None:
        """Let the trainer start its process while the first rollouts are drawn; without it the first step does."""
        try:
            self._services[Service.TRAINER].prepare(self._lease.run)
        except (ServiceUnavailable, ServiceRefused) as error:
            log.info("training not prepared", extra={"run": self._lease.run, "reason": str(error)})
