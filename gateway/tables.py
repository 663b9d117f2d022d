"""The registry's tables, for SQLite and Postgres, and the connections to them.

Invariants: a transaction that writes holds the write lock from its start (SQLite: `BEGIN IMMEDIATE`), so it never
fails half-way with "database is locked"; creating the tables is safe when many processes start at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)

METADATA = MetaData()

RUNS = Table(
    "runs",
    METADATA,
    Column("id", String(128), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("method", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("desired", String(16), nullable=False),  # run | pause | cancel: what people ask for
    Column("recipe", Text, nullable=False),  # JSON of the resolved recipe
    Column("recipe_hash", String(64), nullable=False),
    Column("idempotency_key", String(200), unique=True),
    Column("inputs", Text, nullable=False),  # JSON of `plan.Inputs`
    Column("step", Integer, nullable=False),  # steps complete, step 0 not counted
    Column("steps", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),  # fencing token: grows with every claim
    Column("lease_owner", String(200)),
    Column("lease_until", Float, nullable=False),
    Column("due", Float, nullable=False),  # not to be advanced before: backoff and waiting
    Column("waiting_since", Float),  # a service has been out of reach since
    Column("error", Text),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("runs_by_age", "created", "id"),
    Index("runs_by_status", "status"),
)

PHASES = Table(
    "phases",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("service", String(16), nullable=False),
    Column("status", String(16), nullable=False),  # submitted | succeeded | failed | cancelled | forgiven
    Column("request_hash", String(64), nullable=False),
    Column("result", Text),
    Column("facts", Text),
    Column("error", Text),
    Column("seconds", Float),
    Column("submitted", Float, nullable=False),
    Column("ended", Float),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("ts", Float, nullable=False),
    Column("type", String(32), nullable=False),
    Column("payload", Text, nullable=False),
)

ARTIFACTS = Table(
    "artifacts",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("uri", String(1024), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("kind", String(32), nullable=False),  # the phase that wrote it, or `weights`
    Column("version", Integer),  # of weights
    Column("sha256", String(64), nullable=False),
    Column("bytes", Integer),
    Column("rows", Integer),
)

BUSY_TIMEOUT_S = 30
_MIGRATION_LOCK = 0x504D44  # "PMD"


class Database:
    """Connections to the registry's database."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        self._sqlite = self.engine.dialect.name == "sqlite"
        if self._sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        with self.write() as db:
            if not self._sqlite:
                db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            METADATA.create_all(db)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it or nothing."""
        with self.engine.connect().execution_options(pmd_write=True) as db, db.begin():
            yield db

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view (SQLite) or the latest committed rows (Postgres)."""
        with self.engine.connect() as db, db.begin():
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
