"""The dashboard for Grafana asks for what services tell Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import Metric

import pmd.services.memory.index.search
import pmd.services.rollout.metrics
import pmd.services.verifier.metrics  # noqa: F401 -- they tell what they have when they are loaded
from pmd.gateway.api.metrics import RunMetrics
from pmd.gateway.registry.registry import Registry

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "deploy" / "k8s" / "chart" / "files" / "grafana.json").read_text()
)
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
WORDS = {"by", "run", "max", "min", "sum", "rate", "histogram_quantile", "le", "label_values", "__rate_interval"}


def names(families: Iterable[Metric]) -> set[str]:
    """The samples of metrics, whether there are some yet or not."""
    return {family.name + ending for family in families for ending in ENDINGS.get(family.type, ())}


def test_each_panel_asks_for_metrics_and_labels_that_there_are(registry: Registry) -> None:
    of_runs = list(RunMetrics(registry, {"runs": "file:///"}).collect())
    known = names(of_runs) | names(list(REGISTRY.collect()))
    labels = {label for family in of_runs for label in getattr(family, "_labelnames", ())}
    labels |= {name for each in REGISTRY._collector_to_names for name in getattr(each, "_labelnames", ())}
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    asked += [each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each]
    assert len(asked) > 30
    for expression in asked:
        plain = re.sub(r'"[^"]*"', "", expression)
        words = set(re.findall(r"[a-z_]\w*", plain)) - WORDS
        metrics = {word for word in words if word.startswith("pmd_")}
        assert metrics, expression
        assert metrics <= known, (expression, metrics - known)
        assert words - metrics <= labels, (expression, words - metrics - labels)


def test_every_number_of_a_run_is_shown(registry: Registry) -> None:
    text = json.dumps(DASHBOARD)
    left_out = {family.name for family in RunMetrics(registry, {}).collect() if f"{family.name}{{" not in text}
    assert left_out == {"pmd_free_bytes", "pmd_runs", "pmd_run_lr", "pmd_run_masked", "pmd_run_skipped"}, (
        "the first two are no run's; the others are settings, or counts of what is shown as a share"
    )
