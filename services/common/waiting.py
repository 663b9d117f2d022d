"""Waiting is not failing: what work needs and can't have now, and why.

Invariants:
- `Away` says that nothing was tried: a service, a server, a database or a storage is out of reach, starting, full or
  overloaded. Whoever does the work waits as long as it takes, with the reason in plain sight, and counts no attempt.
- What was tried and failed is anything else, `Retryable` when trying again could help.
- `away` is the one place that knows which faults of storage and databases are waited for.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from pmd.services.common.jobs import Retryable

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 15.0

AWAY_STATUS = frozenset({408, 425, 429, 502, 503, 504, 529})
"""HTTP answers that say "not now": the server starts, stops, is full or overloaded."""

STORAGE = frozenset(
    getattr(errno, name)
    for name in (
        # full
        *("ENOSPC", "EDQUOT", "EFBIG", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN"),
        # out of order, until somebody looks after it
        *("EIO", "EROFS", "ENODEV", "ENXIO", "EREMOTEIO", "ESTALE", "EBUSY", "ENOLCK", "ESHUTDOWN"),
        # out of reach
        *("ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ENOTCONN"),
        *("EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ENETRESET"),
    )
)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
    }
)

_NUMBERED = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) say what the system told them."""


class Away(Retryable):
    """What the work needs is out of reach, starting, full or overloaded. Waiting for it is no attempt.

    Args:
        reason: what is waited for and why, for people.
        after_s: how long the other side asked to be left alone.
    """

    def __init__(self, reason: str, *, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


def sqlite_away(error: BaseException | None) -> bool:
    """Whether SQLite says that its file is held by others, full or out of reach."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in SQLITE_AWAY


def away(error: BaseException, *places: str) -> Away | None:
    """What is waited for after `error`; None when the work was tried and failed.

    Args:
        places: paths or URIs that the work writes to; the full one is named where the error does not say.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Away):
            return cause
        if sqlite_away(cause):
            full = getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
            return Away(f"the database can't be used: {cause}{_at(places) if full else ''}")
        if (number := _number(cause)) in STORAGE or isinstance(cause, ConnectionError):
            said = str(cause)
            named = getattr(cause, "filename", None) is not None
            return Away(f"storage can't be used: {said}{_at(places) if number in FULL and not named else ''}")
        cause = cause.__cause__
    return None


def _number(error: BaseException) -> int | None:
    """The system's number for an error, 0 when it has none."""
    if isinstance(error, OSError):
        return error.errno
    said = _NUMBERED.search(str(error))
    return int(said[1]) if said else None


def _at(places: tuple[str, ...]) -> str:
    place = fullest(*places)
    return f" ({place} is full)" if place else ""


def fullest(*places: str) -> str:
    """That of `places` (paths or `file://` URIs) whose disk has the least space; empty when none is on a disk."""
    free: list[tuple[int, str]] = []
    for place in places:
        path = place.removeprefix("file://")
        if not path or "://" in path:
            continue
        folder = Path(path)
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        try:
            free.append((shutil.disk_usage(folder).free, path))
        except OSError:
            return path  # it does not even say
    return min(free)[1] if free else ""


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that an answer asks to be left alone for; 0 when it does not say, or says it as a date."""
    said = headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdecimal() and len(said) < 10 else 0.0


def delay(waited_s: float, after_s: float = 0.0) -> float:
    """Seconds until the next look at what has been waited for `waited_s` seconds: often at first, then less.

    Args:
        after_s: how long the other side asked to be left alone.
    """
    return min(max(FIRST_DELAY_S, waited_s / 8, after_s), LONGEST_DELAY_S)
