"""Connections to a SQL database, SQLite or Postgres, with the same promises on both.

Invariants: a transaction that writes holds the write lock from its start (SQLite: `BEGIN IMMEDIATE`), so it never
fails half-way with "database is locked"; a reading transaction is one consistent view; preparing the schema is safe
when many processes start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text

BUSY_TIMEOUT_S = 30


class Database:
    """An engine and its two kinds of transaction."""

    def __init__(self, url: str, prepare: Callable[[Connection], None], *, lock: int) -> None:
        """Connect and bring the schema up to date.

        Args:
            prepare: makes or upgrades the schema; runs in one writing transaction, one process at a time.
            lock: number of the Postgres advisory lock that `prepare` runs under; one per schema.
        """
        sqlite = url.startswith("sqlite")
        self.engine: Engine = create_engine(url, pool_pre_ping=not sqlite)
        self.dialect = self.engine.dialect.name
        if sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        with self.write() as db:
            if not sqlite:
                db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
            prepare(db)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it or nothing."""
        with self.engine.connect().execution_options(pmd_write=True) as db, db.begin():
            yield db

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of what is committed."""
        # By default each statement of a Postgres transaction sees its own moment.
        options = {} if self.dialect == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**options) as db, db.begin():
            yield db

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back
    for pragma in ("busy_timeout", BUSY_TIMEOUT_S * 1000), ("journal_mode", "WAL"), ("synchronous", "NORMAL"):
        connection.execute("PRAGMA {}={}".format(*pragma))
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("pmd_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
