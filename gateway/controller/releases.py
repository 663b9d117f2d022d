"""Each end of a run, and each pause, frees what services hold for it: training processes, weights, indexes, jobs.

Invariants:
- What is owed is written with the end itself, in one transaction, and goes when the service has answered: a call is
  made at least once, also after a crash of whoever was to make it (`reconcile` finds what is owed).
- A job is owed until it has ended, not until it was told to: nobody writes for a run that owes nothing.
- All calls are idempotent and lose nothing, so one that is late or doubled does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pmd.gateway.loop.state import Service
from pmd.gateway.registry.registry import Registry
from pmd.services.common.client import ServiceClient, ServiceRefused, ServiceUnavailable
from pmd.services.common.jobs import ENDS

END_S = 3.0
"""How long one call waits for a job that was told to end."""

log = logging.getLogger(__name__)


def release(registry: Registry, services: Mapping[Service, ServiceClient], run: str) -> None:
    """Make the calls that `run` owes; those that a service does not answer, and jobs that still work, stay owed."""
    for name, job in registry.owed(run):
        client = services[Service(name)]
        try:
            if job:
                if client.cancel(job).status not in ENDS and client.poll(job, END_S).status not in ENDS:
                    log.info("job still works", extra={"run": run, "service": name, "job": job})
                    continue
            else:
                client.release(run)
        except ServiceUnavailable as error:
            log.warning("release waits", extra={"run": run, "service": name, "reason": str(error)})
            continue
        except ServiceRefused as error:  # it knows no such job: there is nothing to free
            log.info("nothing to release", extra={"run": run, "service": name, "reason": str(error)})
        registry.released(run, name, job)
