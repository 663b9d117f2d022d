"""What tests of several rooms need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgres


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[postgres.Cluster]:
    """Makes an empty Postgres database and returns its URL."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.cluster() as running:
        yield running
