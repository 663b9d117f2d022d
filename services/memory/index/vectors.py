"""Vectors by content: each text is embedded once by each embedder, and never again.

Invariant: a row is a function of an embedder's id and a text, so it is never stale; losing the file costs time only.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from pmd.services.memory.index.embed import Embedder, Rows

CHUNK = 256
"""Texts embedded between two chances to stop."""

T = TypeVar("T")


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """`values` in parts of at most `size`."""
    return (values[i : i + size] for i in range(0, len(values), size))


class VectorFile:
    """The vectors of all embedders, in one SQLite file; safe to kill at any moment, shared by threads."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._db.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=10000;"
            "CREATE TABLE IF NOT EXISTS vectors(embedder TEXT, digest BLOB, vector BLOB,"
            " PRIMARY KEY(embedder, digest)) WITHOUT ROWID;"
            "CREATE TABLE IF NOT EXISTS active(one INTEGER PRIMARY KEY CHECK(one = 1), spec TEXT);"
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def get(self, embedder: str, digests: Sequence[bytes]) -> dict[bytes, Rows]:
        """The vectors that are known, by digest."""
        found: dict[bytes, Rows] = {}
        for part in chunks(digests, 500):
            marks = ",".join("?" * len(part))
            query = f"SELECT digest, vector FROM vectors WHERE embedder=? AND digest IN ({marks})"  # noqa: S608
            with self._lock:
                rows = self._db.execute(query, (embedder, *part)).fetchall()
            found |= {digest: np.frombuffer(blob, dtype=np.float32) for digest, blob in rows}
        return found

    def put(self, embedder: str, vectors: dict[bytes, Rows]) -> None:
        """Keep vectors."""
        rows = [(embedder, digest, vector.tobytes()) for digest, vector in vectors.items()]
        with self._write() as db:
            db.executemany("INSERT OR IGNORE INTO vectors VALUES(?,?,?)", rows)

    def dimension(self, embedder: str) -> int | None:
        """Dimensions of an embedder's vectors; None while there are none."""
        with self._lock:
            row = self._db.execute(
                "SELECT length(vector) FROM vectors WHERE embedder=? LIMIT 1", (embedder,)
            ).fetchone()
        return row[0] // 4 if row else None

    def active(self) -> str | None:
        """Specification (JSON) of the embedder that reads use; None before there was one."""
        with self._lock:
            row = self._db.execute("SELECT spec FROM active").fetchone()
        return row[0] if row else None

    def activate(self, spec: str, embedder: str) -> None:
        """Make this the embedder that reads use, and forget the vectors of all others, in one transaction."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO active VALUES(1, ?)", (spec,))
            db.execute("DELETE FROM vectors WHERE embedder != ?", (embedder,))

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing. One that a full disk broke off doesn't stand in the next one's way."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def digest(text: str) -> bytes:
    """The name of a text."""
    return hashlib.sha256(text.encode()).digest()


class Vectors:
    """What one embedder makes of texts, remembered."""

    def __init__(self, file: VectorFile, embedder: Embedder) -> None:
        self._file = file
        self._embedder = embedder
        self.id = embedder.id

    def of(self, texts: Sequence[str], check: Callable[[], None] = lambda: None) -> Rows:
        """One row per text; `check` is called between chunks of new texts and may raise to stop early.

        What was embedded before a stop stays known: the next call goes on from there.

        Raises:
            EmbedderDown: when the embedder fails for a reason that may pass.
            ValueError: when it answers another dimension than it did before.
        """
        names = [digest(text) for text in texts]
        rows = self._file.get(self.id, list(dict.fromkeys(names)))
        missing = list({name: text for name, text in zip(names, texts, strict=True) if name not in rows}.items())
        for part in chunks(missing):
            check()
            rows |= self._embed(part)
        return np.stack([rows[name] for name in names]) if names else np.zeros((0, 0), dtype=np.float32)

    def known(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that need no embedding any more."""
        found = self._file.get(self.id, [digest(text) for text in texts])
        return [text for text in texts if digest(text) in found]

    def _embed(self, part: Sequence[tuple[bytes, str]]) -> dict[bytes, Rows]:
        fresh = self._embedder.embed([text for _, text in part])
        before = self._file.dimension(self.id)
        if before is not None and before != fresh.shape[1]:
            raise ValueError(
                f"embedder {self.id} answered {fresh.shape[1]} dimensions, {before} before: the model behind this name "
                "has changed; give it another name (PMD_MEMORY_EMBEDDER_MODEL) and all texts are embedded anew"
            )
        found = {name: row for (name, _), row in zip(part, fresh, strict=True)}
        self._file.put(self.id, found)
        return found
