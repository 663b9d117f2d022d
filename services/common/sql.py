"""Connections to a SQL database, SQLite or Postgres, with the same promises on both.

Invariants: a transaction that writes holds the write lock from its start (SQLite: `BEGIN IMMEDIATE`), so it never
fails half-way with "database is locked"; a reading transaction is one consistent view; preparing the schema is safe
when many processes start at once; what fails only because others hold a lock, the disk is full or the server is away,
fails with `Busy`, which is waited for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from pmd.services.common.waiting import Away, sqlite_away

BUSY_TIMEOUT_S = 30
"""Longest that a SQLite writer waits for the others."""

_POSTGRES_BUSY = frozenset({"25006", "55P03", "57P01", "57P02", "57P03"})
"""A server that only reads (a failover), a lock not available in time, and a server that stops or starts."""
_POSTGRES_BUSY_CLASSES = frozenset({"08", "40", "53", "58"})
"""The connection is lost; of transactions that are in each other's way this one is undone; the server is short of
something (disk, memory, connections); its system failed it."""


class Busy(Away, SQLAlchemyError):
    """Others hold the database, its disk is full, or it is out of reach: the same work may succeed later.

    Nothing was done, unless the answer to a commit was lost: repeat only what is safe to repeat.
    """


def _is_busy(error: DBAPIError) -> bool:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return sqlite_away(cause)
    state = getattr(cause, "sqlstate", None)
    if state is None:  # no word of the server's
        return isinstance(error, OperationalError)
    return state[:2] in _POSTGRES_BUSY_CLASSES or state in _POSTGRES_BUSY


@contextmanager
def _busy_is_waited_for(name: str) -> Iterator[None]:
    """Args:
    name: of the database, without a secret.
    """
    try:
        yield
    except NoConnectionFree as error:
        raise Busy(f"the database {name} is busy: {error}") from error
    except DBAPIError as error:
        if not _is_busy(error):
            raise
        raise Busy(f"the database {name} is busy, full or out of reach: {error.orig}") from error


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
        at = self.engine.url
        self.name = str(at.database) if sqlite else f"{at.database} at {at.host}"
        if sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        with self.write() as db:
            if not sqlite:
                db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
            prepare(db)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it or nothing.

        Raises:
            Busy: when others hold the lock for long, or the database is out of reach.
        """
        with _busy_is_waited_for(self.name), self.engine.connect().execution_options(pmd_write=True) as db, db.begin():
            yield db

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of what is committed.

        Raises:
            Busy: when the database is out of reach.
        """
        # By default each statement of a Postgres transaction sees its own moment.
        options = {} if self.dialect == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with _busy_is_waited_for(self.name), self.engine.connect().execution_options(**options) as db, db.begin():
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
