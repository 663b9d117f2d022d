"""The controller: Celery wakes runs up, and nothing more.

Invariants:
- A message is a wake-up. Losing one costs the time until `reconcile` finds the run; doubling one is harmless,
  because `pmd.gateway.controller.advance.advance` claims a lease before it does anything.
- A message names the epoch that it wakes, so of those that pile up while all processes are busy one is obeyed:
  more runs than processes take turns, in the order in which they were left alone.
- A task lasts seconds, far below the visibility timeout, so a message is never delivered while it is worked on.
- A worker outlives no connection to its broker: it ends, and is started again by the supervisor or the cluster.
- Beat remembers nothing: its one task is as good early as late, so its schedule needs no file.
- No result backend, no chains, no chords, no Celery retries: state and attempts are in the registry.

Worker: `python -m pmd.gateway.controller worker`. Beat: `python -m pmd.gateway.controller beat`.
Run workers with `REMAP_SIGTERM=SIGQUIT`, so that SIGTERM gives messages in hand back to the queue.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
import uuid
from typing import Any

from celery import Celery
from celery.beat import Scheduler
from celery.bootsteps import StartStopStep
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import setup_logging
from kombu.exceptions import KombuError

from pmd.gateway.controller.advance import BUDGET_S, Services
from pmd.gateway.controller.advance import advance as advance_run
from pmd.gateway.controller.pulse import BEAT_S, Pulse
from pmd.gateway.controller.releases import release as release_run
from pmd.gateway.loop.state import Service
from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.client import ServiceClient
from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.telemetry import configure_logging

log = logging.getLogger(__name__)

VISIBILITY_TIMEOUT_S = 120
RECONCILE_S = 3.0
RECONCILE_LIFE_S = 60.0
"""Longer than a message waits behind the runs of a busy worker, or a run whose wake-up was lost is never found."""
QUEUE = "pmd"
SOFT_SHUTDOWN_S = BUDGET_S + 5
START_S = 120.0
"""How long a process of a worker may take to start. Celery's own 4 s kill each of them, one after another and for ever,
on a machine that is busy with other work."""


def _settings() -> GatewaySettings:
    try:
        return load_settings(GatewaySettings)
    except SettingsError as error:
        sys.exit(f"controller: {error}")  # else Celery shows a traceback of its own insides


def _configuration() -> dict[str, Any]:
    settings = _settings()
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            # Look for messages of dead workers every 5 s instead of every 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 3,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        # A worker that has lost its broker ends, and whoever keeps it running starts another, which waits for the
        # broker. One that reconnects takes no messages any more, sometimes from the second time on (celery#10302).
        "broker_connection_retry": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_default_queue": QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_soft_time_limit": 60,
        "task_time_limit": 90,
        "worker_prefetch_multiplier": 1,
        "worker_proc_alive_timeout": START_S,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_S,
        "worker_enable_soft_shutdown_on_idle": True,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "beat_scheduler": f"{__name__}:Beat",
        "beat_schedule": {
            "reconcile": {
                "task": "pmd.reconcile",
                "schedule": RECONCILE_S,
                # Without a worker these would pile up; each is as good as the last.
                "options": {"expires": RECONCILE_LIFE_S},
            }
        },
    }


for _name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
    os.environ.pop(_name, None)  # Celery would take them before our settings

celery = Celery("pmd", set_as_current=False)
# Read when Celery first needs it: importing this module needs no settings.
celery.add_defaults(_configuration)


class WorkerPulse(StartStopStep):  # type: ignore[misc]
    """The worker's pulse, by the timer of its event loop."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **_: Any) -> None:
        super().__init__(worker)
        self._pulse = Pulse("worker", _settings().state_dir)

    def start(self, worker: Any) -> None:
        worker.timer.call_repeatedly(BEAT_S, self._pulse.touch)


celery.steps["worker"].add(WorkerPulse)


class Beat(Scheduler):  # type: ignore[misc]
    """The schedule in memory, with a pulse at each message."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._pulse = Pulse("beat", _settings().state_dir)
        super().__init__(*args, **options)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        sent = super().apply_async(*args, **options)
        self._pulse.touch()
        return sent


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log_as_services_do(loglevel: int = logging.INFO, **_: Any) -> None:
    configure_logging("controller", logging.getLevelName(loglevel))


@functools.cache
def _tools() -> tuple[Registry, Services]:
    """The registry and the services of this process; made after Celery has forked."""
    settings = _settings()
    tokens = settings.tokens()
    clients = {Service(name): ServiceClient(url, tokens) for name, url in settings.service_urls().items()}
    return Registry(REGISTRY.open(settings.database())), clients


@celery.task(name="pmd.advance")  # type: ignore[untyped-decorator]
def advance(run: str, epoch: int | None = None) -> None:
    """Advance a run for some seconds, unless it was since `epoch`; then ask to be woken up again."""
    registry, services = _tools()
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    delay = advance_run(registry, services, run, owner, epoch=epoch, interrupts=(SoftTimeLimitExceeded,))
    if delay is not None:
        advance.apply_async((run, registry.run(run)["epoch"]), countdown=delay)
    else:
        release_run(registry, services, run)


@celery.task(name="pmd.release")  # type: ignore[untyped-decorator]
def release(run: str) -> None:
    """Tell services that a run has ended or pauses, those that have not answered yet."""
    release_run(*_tools(), run)


@celery.task(name="pmd.reconcile")  # type: ignore[untyped-decorator]
def reconcile() -> None:
    """Wake up every run that wants an owner (its message was lost, or its owner has died), and release what is owed."""
    registry, _ = _tools()
    for wake_up in registry.due().items():
        advance.apply_async(wake_up)
    for run in registry.owing():
        release.apply_async((run,), expires=RECONCILE_LIFE_S)


def wake(run: str) -> None:
    """Advance a run soon. Without a broker nothing is lost: `reconcile` finds the run when there is one."""
    try:
        advance.apply_async((run,), retry=False)
    except (KombuError, OSError) as error:
        log.warning("no broker, the run waits for it", extra={"run": run, "reason": str(error)})
