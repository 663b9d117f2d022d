"""The logs of an installation on this machine: the last lines of each program, and what is added.

Invariant: a line is told once, whole and in the order of its file, also when the supervisor turns the file over.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Line:
    """One line of a log."""

    source: str
    """Name of the program."""
    raw: str
    at: str
    """When it was written, ISO 8601 in UTC; of a line that does not say, when the one before it was."""
    record: dict[str, Any] | None
    """What it says, where it is a record of ours."""


class LogFile:
    """A log that grows; who writes it may begin a new file under its name."""

    def __init__(self, source: str, path: Path) -> None:
        self.source = source
        self._path = path
        self._file: IO[bytes] | None = None
        self._part = b""
        self._at = ""

    def last(self, count: int, about: str = "") -> list[Line]:
        """The last lines so far, at most `count`.

        Args:
            about: only lines with this in them.
        """
        old = self._path.with_suffix(".log.1")
        kept: deque[Line] = deque(maxlen=count)
        if old.is_file():
            kept.extend(self._lines(old.read_bytes().splitlines(), about))
        kept.extend(self.new(about))
        return list(kept)

    def new(self, about: str = "") -> list[Line]:
        """Whole lines that were added since it was read last."""
        found: list[Line] = []
        if self._file is not None and self._turned():
            found += self._read(about)  # what was written before it was turned over
            self._file.close()
            self._file, self._part = None, b""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return found
        return found + self._read(about)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _turned(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        open_ = os.fstat(self._file.fileno()) if self._file else there
        return (there.st_dev, there.st_ino) != (open_.st_dev, open_.st_ino)

    def _read(self, about: str) -> list[Line]:
        *whole, self._part = (self._part + (self._file.read() if self._file else b"")).split(b"\n")
        return list(self._lines(whole, about))

    def _lines(self, raws: Iterable[bytes], about: str) -> Iterator[Line]:
        for each in raws:
            raw = each.decode(errors="replace")
            if about not in raw:
                continue
            record = _record(raw)
            self._at = str(record["ts"]) if record else self._at
            yield Line(self.source, raw, self._at, record)


def _record(raw: str) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and {"ts", "message"} <= found.keys() else None


def sources(state_dir: Path) -> dict[str, Path]:
    """The log of each program that was ever started in `state_dir`, by its name."""
    return {path.stem: path for path in sorted((state_dir / "logs").glob("*.log"))}


def training(state_dir: Path) -> dict[str, Path]:
    """The output of the training process of each run, by the run's id."""
    return {path.parent.name: path for path in sorted((state_dir / "trainer" / "runs").glob("*/log"))}


def runs(state_dir: Path) -> list[str]:
    """Ids of the runs that left something in `state_dir`."""
    folders = [*(state_dir / "runs").glob("*/"), *(state_dir / "trainer" / "runs").glob("*/")]
    return sorted({folder.name for folder in folders})
