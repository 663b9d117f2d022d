"""A small SQLite file that one service keeps for itself; what several processes share is a `pmd.services.common.sql`.

Invariants:
- A change is in the file before the call that makes it returns, and kill -9 leaves all of it there or nothing.
- A transaction that fails is undone, and the next one can begin.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUSY_TIMEOUT_S = 10.0
"""Longest wait for another process: a predecessor that is about to end."""


class Store:
    """One connection, shared by threads that take turns."""

    def __init__(self, path: Path, tables: str) -> None:
        """Open the file at `path`, or make it.

        Args:
            tables: statements that make what is not there yet (`CREATE TABLE IF NOT EXISTS ..;`).
        """
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {tables}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """All rows that a query finds."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> Any | None:
        """The first of them, or None."""
        with self._lock:
            return self._db.execute(query, values).fetchone()

    def change(self, statement: str, *values: Any) -> int:
        """Apply one statement; how many rows it changed."""
        with self._lock:
            return self._db.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Several statements: all of them or none."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have undone it already
                    self._db.execute("ROLLBACK")
                raise
