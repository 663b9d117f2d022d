"""The chart, installed once on a real cluster for all tests of it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.cluster import CLAIM, Cluster, build_and_load, missing, say, tell, write_values


@contextmanager
def namespace(values: tuple[str, ...]) -> Iterator[Cluster]:
    """A namespace that enforces `restricted`, with a claim for backups and no release; taken away at the end."""
    name = f"pmd-test-{uuid.uuid4().hex[:6]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    say("kubectl", "create", "--filename", "-", stdin=json.dumps(made))
    cluster = Cluster(name, values)
    try:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
        cluster.kubectl("create", "--filename", "-", stdin=json.dumps(claim))
        yield cluster
    except BaseException:
        cluster.report()
        raise
    finally:
        cluster.close()
        say("kubectl", "delete", "namespace", name, "--timeout", "300s", timeout=320)
        tell(f"the namespace {name} is gone")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A fixture is not told that a test has failed."""
    report = yield
    if report.when == "call" and report.failed and (cluster := getattr(item, "funcargs", {}).get("cluster")):
        print(report.longreprtext)
        cluster.report()
    return report


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The dev preset, installed."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("k8s")
    images = build_and_load(load) if (load := os.environ.get("PMD_K8S_LOAD")) else {}
    values: tuple[str, ...] = (write_values(folder, {**images, "backup": {"existingClaim": CLAIM}}),)
    if given := os.environ.get("PMD_K8S_VALUES"):
        values = (*values, given)
    with namespace(values) as made:
        tell(f"installing in {made.namespace}")
        made.apply("install")
        tell("installed, and all pods are ready")
        yield made


@pytest.fixture(scope="package")
def life() -> dict[str, Any]:
    """What one test of the life leaves to the next."""
    return {}
