"""Connections to a SQL database, SQLite or Postgres, with the same promises on both.

Invariants: a transaction that writes holds the write lock from its start (SQLite: `BEGIN IMMEDIATE`), so it never
fails half-way with "database is locked"; a reading transaction is one consistent view; preparing the schema is safe
when many processes start at once; what fails only because others hold a lock, the disk is full or the server is away,
fails with `Busy`, which is waited for. So is a server that is away at the start: each use says why until it is there.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from pmd.services.common.waiting import Away, delay, sqlite_away

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
"""Longest that a server may take to take a connection; libpq itself waits for minutes."""
SILENCE_TIMEOUT_S = 10
"""Longest that what is sent to a server may stay without an acknowledgement: its machine may be cut off."""
MIGRATION_PATIENCE_S = 60
"""Longest that a program waits for a server that has nothing to do but bring its schema up to date."""
BUSY_TIMEOUT_S = 30
"""Longest that a SQLite writer waits for the others."""

_POSTGRES_BUSY = frozenset({"25006", "55P03", "57P01", "57P02", "57P03"})
"""A server that only reads (a failover), a lock not available in time, and a server that stops or starts."""
_POSTGRES_BUSY_CLASSES = frozenset({"08", "40", "53", "58"})
"""The connection is lost; of transactions that are in each other's way this one is undone; the server is short of
something (disk, memory, connections); its system failed it."""


_MENDED_BY = {
    r"password authentication failed|no password supplied|role .* does not exist|pg_hba\.conf": (
        "the server refuses the user or the password of the database's URL; mend them"
    ),
    r"database .* does not exist": "the server has no database of the URL's name; create it, or mend the URL",
}
"""What people do about a refused connection, by what Postgres says in it: there is no code in it to go by."""


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
        said = " ".join(str(error.orig).split())
        mend = next((mend for words, mend in _MENDED_BY.items() if re.search(words, said)), "")
        why = f"can't be used: {mend} ({said})" if mend else f"is busy, full or out of reach: {said}"
        raise Busy(f"the database {name} {why}") from error


class Database:
    """An engine and its two kinds of transaction."""

    def __init__(self, url: str, prepare: Callable[[Connection], None], *, lock: int) -> None:
        """Connect and bring the schema up to date, or wait for that in the background: the database may be away.

        Args:
            prepare: makes or upgrades the schema; runs in one writing transaction, one process at a time.
            lock: number of the Postgres advisory lock that `prepare` runs under; one per schema.

        Raises:
            Exception: what `prepare` raises of a database that is there.
        """
        sqlite = url.startswith("sqlite")
        self.engine: Engine = create_engine(url, pool_pre_ping=not sqlite)
        self.dialect = self.engine.dialect.name
        at = self.engine.url
        self.name = str(at.database) if sqlite else f"{at.database} at {at.host}"
        if sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine, "do_connect", _connect_in_time)
        self._prepare, self._lock = prepare, lock
        self._closed = threading.Event()
        self._unprepared: Away | None = None
        """Why there is no schema yet."""
        try:
            self._bring_up_to_date()
        except Busy as away:
            self._unprepared = away
            log.warning("the database is waited for", extra={"reason": str(away)})
            threading.Thread(target=self._wait, name="database", daemon=True).start()

    def _bring_up_to_date(self) -> None:
        with self._transaction(pmd_write=True) as db:
            if self.dialect != "sqlite":
                db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": self._lock})
            self._prepare(db)

    def _wait(self) -> None:
        """Try until the schema is there, or nobody needs it."""
        began = time.monotonic()
        while not self._closed.wait(delay(time.monotonic() - began)):
            try:
                self._bring_up_to_date()
            except Exception as error:  # whatever it is, a person may mend it, and whoever asks is told
                lacking = error if isinstance(error, Away) else Away(f"the database {self.name} can't be used: {error}")
                if str(lacking) != str(self._unprepared):
                    log.warning("the database is waited for", extra={"reason": str(lacking)})
                self._unprepared = lacking
            else:
                log.info("the database is there", extra={"waited_s": round(time.monotonic() - began, 1)})
                self._unprepared = None
                return

    @contextmanager
    def _transaction(self, **options: Any) -> Iterator[Connection]:
        with _busy_is_waited_for(self.name), self.engine.connect().execution_options(**options) as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it or nothing.

        Raises:
            Busy: when others hold the lock for long, or the database is out of reach.
        """
        self.check()
        with self._transaction(pmd_write=True) as db:
            yield db

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of what is committed.

        Raises:
            Busy: when the database is out of reach.
        """
        # By default each statement of a Postgres transaction sees its own moment.
        options = {} if self.dialect == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self.check()
        with self._transaction(**options) as db:
            yield db

    def check(self) -> None:
        """Return when the schema was there once.

        Raises:
            Busy: it is waited for; the message says why.
        """
        if (lacking := self._unprepared) is not None:
            raise Busy(str(lacking))

    def wait(self, seconds: float) -> None:
        """Return when the schema is there.

        Raises:
            Busy: it is not, in so many seconds; the message says why.
        """
        deadline = time.monotonic() + seconds
        while self._unprepared is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        self.check()

    def close(self) -> None:
        """Close the connections."""
        self._closed.set()
        self.engine.dispose()


def _connect_in_time(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> None:
    options.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    options.setdefault("tcp_user_timeout", SILENCE_TIMEOUT_S * 1000)


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back
    for pragma in ("busy_timeout", BUSY_TIMEOUT_S * 1000), ("journal_mode", "WAL"), ("synchronous", "NORMAL"):
        connection.execute("PRAGMA {}={}".format(*pragma))
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("pmd_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
