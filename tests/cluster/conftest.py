"""The chart, installed once on a real cluster for all tests of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, images, missing, namespace


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A namespace that enforces `restricted`, with the dev preset in it; both are taken away."""
    if reason := missing():
        pytest.skip(reason)
    values = images(tmp_path_factory.mktemp("k8s"))
    with namespace() as name:
        made = Cluster(name, values)
        try:
            made.apply("install")
            yield made
        finally:
            made.close()
