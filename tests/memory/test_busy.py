"""A database that others hold, or that is away for a while: nobody's request is refused for good, no run fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pmd.services.common import sql
from pmd.services.common.sql import Busy, Database
from tests.memory.desk import RIGHT, B, Desk, open_desk


@contextmanager
def held(url: str) -> Iterator[None]:
    """Somebody else writes to a SQLite database all the while, as a large import does."""
    other = sa.create_engine(url)
    with other.connect() as db:
        db.exec_driver_sql("BEGIN IMMEDIATE")
        yield
    other.dispose()


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Desk, str]]:
    """A desk whose service waits for other writers for a moment only."""
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_S", 0.05)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_desk(url, tmp_path) as desk:
        yield desk, url


def test_a_person_who_writes_while_the_ledger_is_held_is_asked_to_try_again(impatient: tuple[Desk, str]) -> None:
    desk, url = impatient
    desk.learn(1)
    item = desk.one(level="insight")
    with held(url):
        answer = desk.edit(item, "turn it round.")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "locked" in answer.json()["title"]
        assert desk.one(level="insight") == item, "reading goes on"
    assert desk.edit(item, "turn it round.").status_code == 200


def recording(desk: Desk, key: str, attempt: str = RIGHT) -> None:
    """Submit the record of one passed attempt."""
    rollouts, verdicts = desk.world.batch(1, [("p0", attempt, True)])
    refs = {"rollouts": rollouts, "verdicts": verdicts, "problems": desk.world.problems_ref}
    request = {"bank": "b", "step": 1, **{name: ref.model_dump() for name, ref in refs.items()}}
    assert desk.http.put(f"/v1/jobs/{key}", json={"kind": "record", "request": request}).status_code == 201


def waiting(desk: Desk, key: str) -> str:
    """What a job waits for, once it does."""
    while not (job := desk.http.get(f"/v1/jobs/{key}").json())["waiting"]:
        time.sleep(0.01)
    assert (job["status"], job["error"]) == ("running", None)
    return str(job["waiting"])


def test_law_12_a_job_that_meets_a_held_ledger_waits_for_it(impatient: tuple[Desk, str]) -> None:
    desk, url = impatient
    with held(url):
        recording(desk, "s1.record.0")
        assert "locked" in waiting(desk, "s1.record.0")
    assert desk.http.get("/v1/jobs/s1.record.0", params={"wait": 20}).json()["status"] == "succeeded"
    assert desk.http.get(B).json()["experience"] == 1


def test_law_12_a_job_that_meets_a_ledger_without_space_waits_for_some_and_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full, begin = [False], sql._begin_sqlite

    def bounded(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() if full[0] else 2**30
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        begin(connection)

    monkeypatch.setattr(sql, "_begin_sqlite", bounded)
    with open_desk(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as desk:
        full[0] = True
        recording(desk, "s1.record.0", RIGHT + "# long " * 10_000)
        reason = waiting(desk, "s1.record.0")
        assert "database or disk is full" in reason
        assert f"{tmp_path}/ledger.db" in reason
        full[0] = False
        assert desk.http.get("/v1/jobs/s1.record.0", params={"wait": 20}).json()["status"] == "succeeded"


def test_a_process_whose_connections_are_all_in_use_is_busy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    database = Database(url, _prepare, lock=1)
    database.close()
    database.engine = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    with database.read(), pytest.raises(Busy), database.read():
        pass
    database.close()


def _prepare(db: sa.Connection) -> None:
    db.execute(sa.text("CREATE TABLE kept(id INTEGER PRIMARY KEY, n INTEGER)"))
    db.execute(sa.text("INSERT INTO kept VALUES (1, 0), (2, 0)"))


@pytest.fixture
def database(postgres_database: Callable[[], str]) -> Iterator[Database]:
    made = Database(postgres_database(), _prepare, lock=1)
    yield made
    made.close()


def _touch(db: sa.Connection, row: int) -> None:
    db.execute(sa.text("UPDATE kept SET n = n + 1 WHERE id = :row"), {"row": row})


def test_on_postgres_a_lock_that_is_not_given_in_time_is_busy(database: Database) -> None:
    def late() -> None:
        with database.write() as db:
            db.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            _touch(db, 1)

    with database.write() as db:
        _touch(db, 1)
        with pytest.raises(Busy, match="lock timeout"):
            late()
    late()


def test_on_postgres_the_victim_of_a_deadlock_may_try_again(database: Database) -> None:
    meet = threading.Barrier(2)
    ends: list[str] = []

    def cross(first: int, second: int) -> None:
        try:
            with database.write() as db:
                _touch(db, first)
                meet.wait(30)
                _touch(db, second)
            ends.append("done")
        except Busy:
            ends.append("busy")

    threads = [threading.Thread(target=cross, args=rows) for rows in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ends) == ["busy", "done"]


def test_on_postgres_a_lost_connection_is_busy_and_a_wrong_statement_is_not(database: Database) -> None:
    def cut_off() -> None:
        with database.write() as db:
            me = db.scalar(sa.text("SELECT pg_backend_pid()"))
            with database.write() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:me)"), {"me": me})
            time.sleep(0.2)
            _touch(db, 1)

    with pytest.raises(Busy):
        cut_off()
    too_long = "SELECT to_tsvector('simple', string_agg(md5(n::text), ' ')) FROM generate_series(1, 60000) n"
    for statement in (too_long, "SELECT nothing FROM nowhere", "SELECT 1 / 0"):
        with pytest.raises(DBAPIError), database.read() as db:
            db.execute(sa.text(statement))
    nobody = database.engine.url.set(port=9)
    away = Database(nobody.render_as_string(hide_password=False), _prepare, lock=1)
    with pytest.raises(Busy):
        away.check()
    away.close()
