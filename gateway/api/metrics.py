"""Metrics of the runs themselves, read from the registry when they are asked for.

A run that nobody advances shows as a growing `pmd_run_idle_seconds`, a disk that runs full as a falling
`pmd_free_bytes`. What a run has not recorded has no sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pmd.gateway.api.history import latest_view
from pmd.gateway.disk import free_bytes
from pmd.gateway.registry.registry import Registry
from pmd.gateway.views import RunStatus

TRAINING = {
    "loss": "Loss of the newest training step",
    "mismatch_kl": "Sampler against trainer, nats a token",
    "entropy": "Of the policy, nats a token",
    "grad_norm": "Largest of the step, before clipping",
    "lr": "Learning rate of the step",
    "masked": "Rollouts that the loss left out",
    "skipped": "Optimizer steps whose gradient was not finite",
}
"""Metrics of a training step that are exported, each as `pmd_run_<name>`."""

HEALTH = {
    "length": "Mean completion of the newest rollouts, in tokens",
    "truncated_share": "Share of them that ended by length",
    "repetition": "Mean share of their 4-grams that occurred in them before",
    "masked_share": "Share of them that the loss left out",
}
"""Signs of the health of learning that are exported, each as `pmd_run_<name>`; others are among the metrics."""


class RunMetrics(Collector):
    """Runs by status; of those that run, how they fare and what their alarms said; and the space that is left."""

    def __init__(self, registry: Registry, places: Mapping[str, str]) -> None:
        """`places` are the URIs whose disks are watched, by name."""
        self._registry = registry
        self._places = places

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: the names are fixed, and asking for them must not read the database."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges at this moment."""
        free = GaugeMetricFamily("pmd_free_bytes", "Free on the disk of a place", labels=["place"])
        for place, uri in self._places.items():
            if (left := free_bytes(uri)) is not None:
                free.add_metric([place], left)
        yield free
        counts = self._registry.count_by_status()
        by_status = GaugeMetricFamily("pmd_runs", "Runs by status", labels=["status"])
        for status in RunStatus:
            by_status.add_metric([status], counts.get(status, 0))
        yield by_status
        yield from self._of_runs()

    def _of_runs(self) -> Iterator[GaugeMetricFamily]:
        def gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"pmd_run_{name}", about, labels=["run", *labels])

        idle = gauge("idle_seconds", "Since a controller last worked on a run")
        step = gauge("step", "Steps complete")
        numbers = {
            "pass_rate": gauge("pass_rate", "Share of the newest training rollouts that passed"),
            "reward": gauge("reward", "Mean reward of the newest training rollouts"),
            "infra_error_share": gauge("infra_error_share", "Share of them that could not be judged"),
            "lead": gauge("teacher_lead", "Pass rate with the teacher's context minus without"),
        }
        training = {name: gauge(name, about) for name, about in TRAINING.items()}
        health = {name: gauge(name, about) for name, about in HEALTH.items()}
        accuracy = gauge("accuracy", "Of the newest evaluation", "split")
        raised = gauge("alarms", "How often an alarm was raised", "kind")
        running = self._registry.runs(limit=1000, status=RunStatus.RUNNING)
        for run, alarms in self._registry.alarms([row["id"] for row in running]).items():
            for alarm in alarms:
                raised.add_metric([run, alarm["kind"]], alarm["count"])
        for row in running:
            run = row["id"]
            idle.add_metric([run], max(0.0, time.time() - row["updated"]))
            step.add_metric([run], row["step"])
            latest = latest_view(self._registry.latest(run))
            for name, family in numbers.items():
                if (value := getattr(latest, name)) is not None:
                    family.add_metric([run], value)
            for name in training.keys() & latest.train.keys():
                training[name].add_metric([run], latest.train[name])
            for name in health.keys() & latest.health.keys():
                health[name].add_metric([run], latest.health[name])
            for split, value in latest.accuracy.items():
                accuracy.add_metric([run, split], value)
        yield from (idle, step, *numbers.values(), *training.values(), *health.values(), accuracy, raised)
