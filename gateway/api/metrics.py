"""Metrics of the runs themselves, read from the registry when they are asked for.

A run that nobody advances shows as a growing `pmd_run_idle_seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pmd.gateway.registry.registry import Registry
from pmd.gateway.views import RunStatus


class RunMetrics(Collector):
    """Runs by status, and how long the active ones have waited."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: the names are fixed, and asking for them must not read the database."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges at this moment."""
        counts = self._registry.count_by_status()
        by_status = GaugeMetricFamily("pmd_runs", "Runs by status", labels=["status"])
        for status in RunStatus:
            by_status.add_metric([status], counts.get(status, 0))
        yield by_status
        idle = GaugeMetricFamily("pmd_run_idle_seconds", "Since a controller last worked on a run", labels=["run"])
        step = GaugeMetricFamily("pmd_run_step", "Steps complete", labels=["run"])
        for row in self._registry.runs(limit=1000, status=RunStatus.RUNNING):
            idle.add_metric([row["id"]], max(0.0, time.time() - row["updated"]))
            step.add_metric([row["id"]], row["step"])
        yield idle
        yield step
