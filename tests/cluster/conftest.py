"""The chart, installed once on a real cluster for all tests of it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, build_and_load, missing, say, write_values


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A namespace that enforces `restricted`, with the dev preset in it; both are taken away."""
    if reason := missing():
        pytest.skip(reason)
    values: tuple[str, ...] = ()
    if load := os.environ.get("PMD_K8S_LOAD"):
        values = (write_values(tmp_path_factory.mktemp("k8s"), build_and_load(load)),)
    if given := os.environ.get("PMD_K8S_VALUES"):
        values = (*values, given)
    name = f"pmd-test-{uuid.uuid4().hex[:6]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    say("kubectl", "create", "--filename", "-", stdin=json.dumps(namespace))
    made = Cluster(name, values)
    try:
        made.apply("install")
        yield made
    finally:
        made.close()
        say("kubectl", "delete", "namespace", name, "--timeout", "300s", timeout=320)
