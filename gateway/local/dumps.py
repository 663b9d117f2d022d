"""Databases in a backup: what one held at a moment, and putting that back where nothing is.

    NAME.db             a SQLite database
    NAME/TABLE.csv      a table of a Postgres database, with a header; no schema

Invariants:
- Postgres is read and written by COPY, over the driver that every service has: no program of the server's version is
  needed where a backup is made. The tables are made by their owners, so a dump goes into the schema that it came from,
  and no other.
- A dump is of the namespace that the URL leads to (the first of its `search_path`). Where the tables that it is to hold
  are not there, it is refused.
- A dump is of one snapshot. It is put back in one transaction that locks the tables before it sees that they are empty.
- Tables of jobs are left out: jobs are done anew, as after a kill. So are codes that signed browsers in: they last a
  minute.
"""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

LOCK_PATIENCE_S = 60.0
"""Longest wait for the lock on a database; its writers hold it for moments."""
LEFT_OUT = frozenset({"jobs", "used_codes"})
OWNERS = {
    "registry": ("pmd.gateway.registry", "PMD_DATABASE_URL", "registry_version"),
    "ledger": ("pmd.services.memory.ledger", "PMD_MEMORY_DATABASE_URL", "alembic_version"),
}
"""What makes the tables of each database, the setting that it reads, and the table with the revision of its schema."""

Copy = Callable[[Path], None]
"""Writes what a snapshot holds into a folder."""


class BackupError(RuntimeError):
    """There is nothing to back up, or a backup can't be made or restored here: a sentence says why, and what to do."""


def file_of(url: str) -> Path | None:
    """The file of a SQLite database; None for a server."""
    at = sa.make_url(url)
    return Path(str(at.database)) if at.get_backend_name() == "sqlite" else None


def shown(url: str) -> str:
    """A URL without its password."""
    return sa.make_url(url).render_as_string()


def same_database(one: str, other: str) -> bool:
    """Whether two URLs lead to one Postgres database and namespace, of which one dump holds all.

    Raises:
        BackupError: a server is away or refuses, or has no such namespace.
    """
    if file_of(one) is not None or file_of(other) is not None:
        return False
    return one == other or _identity(one) == _identity(other)


def _identity(url: str) -> tuple[str, ...]:
    """Server, database and namespace, as the server itself knows them: by a URL it may have several names."""
    query = (
        "SELECT pg_postmaster_start_time()::text, oid::text, current_schema()::text FROM pg_database"
        " WHERE datname = current_database()"
    )
    with server(url) as connection:
        found = tuple(connection.execute(sa.text(query)).one())
    if None in found:
        raise BackupError(f"{shown(url)}: its search_path names no schema that is there; mend the URL")
    return found


@contextmanager
def frozen(url: str, name: str, *besides: str) -> Iterator[Copy]:
    """What a database holds from now on until the end of the context, whatever is written to it.

    Args:
        name: of the dump, and of whose tables it must hold.
        besides: whose else.

    Raises:
        BackupError: at the server there are no such tables where the URL leads.
    """
    if (file := file_of(url)) is not None:
        if not file.exists():  # the service has not begun yet
            yield lambda _: None
            return
        with closing(sqlite3.connect(file, timeout=LOCK_PATIENCE_S, isolation_level=None)) as db:
            db.execute("BEGIN")
            db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # the first read makes the snapshot

            def copy(folder: Path) -> None:
                with closing(sqlite3.connect(folder / f"{name}.db")) as into:
                    db.backup(into)
                    into.execute("PRAGMA journal_mode=DELETE")  # one file

            yield copy
        return
    with server(url, isolation_level="REPEATABLE READ") as connection:
        tables = _tables(connection)  # the first read makes the snapshot
        there = {table.name for table in tables}
        for each in (name, *besides):
            if OWNERS[each][2] not in there:
                schema = connection.scalar(sa.select(sa.func.current_schema()))
                raise BackupError(
                    f"there are no tables of the {each} in schema {schema} of {shown(url)}: give the URL that its"
                    f" service has ({OWNERS[each][1]}), or start that service once"
                )

        def dump(folder: Path) -> None:
            (folder / name).mkdir(mode=0o700)
            for table in tables:
                with (
                    (folder / name / f"{table.name}.csv").open("wb") as out,
                    _copying(connection, f"COPY {table.name} TO STDOUT (FORMAT csv, HEADER)") as rows,
                ):
                    out.writelines(bytes(block) for block in rows)

        yield dump


def holds_nothing(url: str) -> bool:
    """Whether a database is as its owners make it: not there, or without a row."""
    if (file := file_of(url)) is not None:
        return not file.exists()
    with server(url) as connection:
        return not any(_has_rows(connection, table) for table in _tables(connection) if not _is_version(table))


def _has_rows(connection: sa.Connection, table: sa.Table) -> bool:
    return connection.scalar(sa.select(sa.literal(1)).select_from(table).limit(1)) is not None


def fill(url: str, source: Path, name: str) -> None:
    """Put a database where nothing is; that of a service that had not begun is left to it.

    Raises:
        BackupError: the backup's is of another kind, or of another schema, or somebody has written to it meanwhile.
    """
    file = file_of(url)
    kept, other = source / f"{name}.db", source / name
    if file is None:
        kept, other = other, kept
    if other.exists():
        raise BackupError(
            f"the backup holds {other.name}, which is not of the kind of {shown(url)}: set PMD_DATABASE_URL and"
            " PMD_MEMORY_DATABASE_URL as they were"
        )
    if not kept.exists():
        return
    if file is None:
        _copy_in(url, kept)
        return
    if file.exists():  # an empty one that a service has open, which sees it filled
        with closing(sqlite3.connect(kept)) as db, closing(sqlite3.connect(file, timeout=LOCK_PATIENCE_S)) as into:
            db.backup(into)
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.tmp")
    shutil.copyfile(kept, part)
    part.replace(file)


def make_tables(url: str, name: str) -> None:
    """Have the owner of a database on a server make its tables, where they are not there yet.

    Raises:
        BackupError: it can't.
    """
    module, setting, _ = OWNERS[name]
    with tempfile.TemporaryDirectory() as folder:
        # In the environment, which other users can't read; arguments they can, and a URL may hold a password.
        settings = {setting: url, "PMD_TOKEN": "-" * 32, "PMD_STATE_DIR": folder}  # a token is wanted, and not used
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PMD_")} | settings
        command = [sys.executable, "-P", "-m", module]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        raise BackupError(f"no tables can be made at {shown(url)}: {said[-1]}")


def _copy_in(url: str, kept: Path) -> None:
    with server(url) as connection:
        tables = {table.name: table for table in _tables(connection)}
        dumps = {path.stem: path for path in kept.glob("*.csv")}
        if unknown := sorted(dumps.keys() - tables.keys()):
            raise BackupError(f"the backup has a table {unknown[0]!r}, which this release does not: {_AS_IT_WAS}")
        wanted = [name for name in tables if name in dumps]
        if wanted:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE_S:.0f}s'"))
            connection.execute(sa.text(f"LOCK TABLE {', '.join(wanted)} IN EXCLUSIVE MODE"))
        for name in wanted:  # those that others refer to come first
            table = tables[name]
            if _is_version(table):
                with dumps[name].open(encoding="utf-8", newline="") as file:
                    was = [row["version_num"] for row in csv.DictReader(file)]
                if was != (now := list(connection.scalars(sa.select(table)))):
                    raise BackupError(f"the backup is of schema {was} ({name}), and here it is {now}: {_AS_IT_WAS}")
                continue
            if _has_rows(connection, table):
                raise BackupError(
                    f"{shown(url)} is there already, table {name} has rows: restore where there is no installation, or"
                    " drop its tables; services make them anew"
                )
            with dumps[name].open("rb") as file:
                columns = file.readline().decode().strip()
                with _copying(connection, f"COPY {name} ({columns}) FROM STDIN (FORMAT csv)") as rows:
                    while block := file.read(1 << 20):
                        rows.write(block)
            _advance_sequences(connection, table)


_AS_IT_WAS = "restore it with the release that made it, and upgrade then"


def _advance_sequences(connection: sa.Connection, table: sa.Table) -> None:
    """Numbers that are given next come after those that are there."""
    for column in table.columns:
        sequence = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name)))
        if sequence and (last := connection.scalar(sa.select(sa.func.max(column)))) is not None:
            connection.execute(sa.select(sa.func.setval(sequence, last)))


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """The tables of a server's database that are backed up, each after those that it refers to."""
    found = sa.MetaData()
    found.reflect(connection, only=lambda name, _: name not in LEFT_OUT)
    return found.sorted_tables


def _is_version(table: sa.Table) -> bool:
    """Whether it holds the revision of a schema, as Alembic keeps it."""
    return [column.name for column in table.columns] == ["version_num"]


@contextmanager
def server(url: str, **options: Any) -> Iterator[sa.Connection]:
    """A transaction at a server.

    Raises:
        BackupError: it is away, or refuses.
    """
    engine = sa.create_engine(url, **options)
    try:
        with engine.begin() as connection:
            yield connection
    except (sa.exc.DBAPIError, engine.dialect.loaded_dbapi.Error) as error:
        raise BackupError(f"{shown(url)}: {' '.join(str(getattr(error, 'orig', error)).split())}") from error
    finally:
        engine.dispose()


@contextmanager
def _copying(connection: sa.Connection, statement: str) -> Iterator[Any]:
    """Blocks of a COPY, in the connection's transaction; SQLAlchemy has none, its driver does."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(statement) as blocks:
        yield blocks
