"""The cluster that the tests use: the one of KUBECONFIG. They skip with a reason where there is none."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.cluster import CLAIM, Cluster, images, missing, namespace, tell, write_values


@contextmanager
def home(values: tuple[str, ...]) -> Iterator[Cluster]:
    """A namespace with a claim for backups and no release; taken away at the end."""
    with namespace() as name:
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
    tell(f"the namespace {name} is gone")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A fixture is not told that a test has failed."""
    report = yield
    if report.when == "call" and report.failed and (cluster := getattr(item, "funcargs", {}).get("cluster")):
        print(report.longreprtext)
        cluster.report()
    return report


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The dev preset, installed."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("k8s")
    values = (*images(folder), write_values(folder, {"backup": {"existingClaim": CLAIM}}))
    with home(values) as made:
        tell(f"installing in {made.namespace}")
        made.apply("install")
        tell("installed, and all pods are ready")
        yield made


@pytest.fixture(scope="package")
def life() -> dict[str, Any]:
    """What one test of the life leaves to the next."""
    return {}
