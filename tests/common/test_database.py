"""A database that is away at the start is waited for, and says why (Law 12)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from pmd.services.common.schema import SchemaTooNew
from pmd.services.common.sql import Busy, Database
from tests import postgres
from tests.common.processes import Process
from tests.reaped import reaped

TABLE = sa.Table("things", sa.MetaData(), sa.Column("name", sa.Text))


@pytest.fixture
def server() -> Iterator[postgres.Cluster]:
    """A Postgres of this test's own."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.cluster() as running:
        yield running


def prepare(db: sa.Connection) -> None:
    TABLE.create(db, checkfirst=True)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def works(database: Database) -> bool:
    try:
        with database.read() as db:
            return db.execute(sa.select(TABLE)).all() == []
    except Busy:
        return False


def test_a_server_that_is_away_at_the_start_is_waited_for(
    server: postgres.Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = server()
    server.stop()
    database = Database(url, prepare, lock=1)
    for use in (database.read, database.write):
        with pytest.raises(Busy, match=r"the database bank\d+ at 127\.0\.0\.1 is busy.*Connection refused"), use():
            pass
    server.start()
    until(lambda: works(database))
    said = [record.msg for record in caplog.records]
    assert (said[0], said[-1]) == ("the database is waited for", "the database is there")
    database.close()


def test_a_migration_waits_for_a_server_that_starts(server: postgres.Cluster) -> None:
    url = server()
    server.stop()
    database = Database(url, prepare, lock=1)
    with pytest.raises(Busy, match="Connection refused"):
        database.wait(0.3)
    starting = threading.Timer(1.0, server.start)
    starting.start()
    database.wait(60)
    assert works(database)
    starting.join()
    database.close()


@pytest.mark.parametrize(
    ("database", "user", "said"),
    [
        ("postgres", "sealed:wrong", "the server refuses the user or the password .* mend them"),
        ("postgres", "nobody-of-ours", "the server refuses the user or the password .* mend them"),
        ("nowhere", "pmd", "the server has no database of the URL's name; create it, or mend the URL"),
    ],
)
def test_a_refused_connection_says_what_to_mend_and_no_password(
    server: postgres.Cluster, database: str, user: str, said: str
) -> None:
    opened = Database(server.url(database, user), prepare, lock=1)
    with pytest.raises(Busy, match=said) as refused:
        opened.check()
    assert "wrong" not in str(refused.value)
    opened.close()


def test_what_is_wrong_with_a_database_that_comes_late_is_told_to_whoever_asks(server: postgres.Cluster) -> None:
    url = server()
    server.stop()

    def newer(_: sa.Connection) -> None:
        raise SchemaTooNew("start the newer release again")

    database = Database(url, newer, lock=1)
    server.start()

    def told() -> bool:
        with pytest.raises(Busy) as why:
            database.check()
        return "start the newer release again" in str(why.value)

    until(told)
    with pytest.raises(SchemaTooNew):
        Database(url, newer, lock=1)
    database.close()


@pytest.fixture
def waiting(tmp_path: Path, server: postgres.Cluster) -> Iterator[dict[str, Process]]:
    """Gateway and memory, started while their server is away."""
    url = server()
    server.stop()
    with ExitStack() as stack:
        made = {
            "gateway": Process(tmp_path, "pmd.gateway", PMD_DATABASE_URL=url),
            "memory": Process(tmp_path, "pmd.services.memory", PMD_MEMORY_DATABASE_URL=url),
        }
        for each in made.values():
            stack.enter_context(reaped(each.process.pid))
            stack.callback(each.process.wait)
            stack.callback(each.process.terminate)
        yield made


def test_gateway_and_memory_wait_for_their_database(waiting: dict[str, Process], server: postgres.Cluster) -> None:
    said = {"gateway": "the run registry is out of reach: ", "memory": "the ledger is out of reach: "}
    asked = {"gateway": "/v1/runs", "memory": "/v1/banks/none"}
    for name, process in waiting.items():
        process.answers()
        readiness = httpx.get(f"{process.url}/readyz", timeout=30)
        assert readiness.status_code == 503
        assert readiness.json()["title"].startswith(f"{said[name]}the database bank"), readiness.text
        assert "Connection refused" in readiness.json()["title"]
        assert process.get(asked[name]).status_code == 503
        assert "the database is waited for" in process.log.read_text()
    server.start()
    for name, process in waiting.items():
        process.ready()
        assert process.get(asked[name]).status_code in {200, 404}
