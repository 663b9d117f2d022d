"""Banks, databases and servers for the tests of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory.desk import Desk, open_desk
from tests.memory.weaviate_server import Server, any_server
from tests.memory.world import World, eight_problems


@pytest.fixture(scope="session")
def weaviate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Weaviate server for all tests of this process."""
    server = any_server(tmp_path_factory.mktemp("weaviate"))
    yield server
    server.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A bank on SQLite."""
    return World(tmp_path, eight_problems())


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_database")())


@pytest.fixture
def both(url: str, tmp_path: Path) -> Iterator[World]:
    """The same bank on either database."""
    made = World(tmp_path, eight_problems(), url)
    yield made
    made.ledger.close()


@pytest.fixture
def desk(url: str, tmp_path: Path) -> Iterator[Desk]:
    """A person at the REST interface of an empty bank."""
    with open_desk(url, tmp_path) as opened:
        yield opened
