"""What a child's execution says: a value, an error, or the limit that ended it.

Invariant: a report is the child's to forge, so every part of it is checked before it is used.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from pmd.services.common.wire import Outcome
from pmd.services.verifier import compare
from pmd.services.verifier.feedback import Frame
from pmd.services.verifier.sandbox.job import End, Execution

LIMITS = {Outcome.TIMEOUT: "Time", Outcome.MEMORY: "Memory", Outcome.OUTPUT_LIMIT: "Output"}
"""Outcomes of exceeded limits, as people call the limits."""


@dataclass(frozen=True, slots=True)
class Error:
    """A runtime error: type, message and the program's own frames."""

    name: str
    message: str
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """How a child ended. With neither `limit` nor `error`, `value` is what its function returned, if it did."""

    limit: Outcome | None = None
    """A key of `LIMITS`."""
    loading: bool = False
    """The limit was met before the function was called."""
    error: Error | None = None
    value: Any = None
    returned: bool = False


def read(execution: Execution) -> Report:
    """The report of an ended child."""
    match execution.end:
        case End.EXIT if execution.spoke:
            return _parse(execution.report)
        case End.EXIT:
            return Report(error=Error("SystemExit", "the program ended before it returned a result or came to its end"))
        case End.OUTPUT:
            return Report(limit=Outcome.OUTPUT_LIMIT, loading=execution.loading)
        case End.CPU | End.WALL:
            return Report(limit=Outcome.TIMEOUT, loading=execution.loading)
        case End.MEMORY | End.THREADS:
            return Report(limit=Outcome.MEMORY, loading=execution.loading)
        case _:
            return Report(error=Error("Crash", signal.strsignal(execution.code) or f"signal {execution.code}"))


def _parse(data: bytes) -> Report:
    try:
        report = compare.parse_json(data)
    except compare.NotJson:
        return Report()
    if not isinstance(report, dict):
        return Report()
    return Report(error=_error(report.get("error")), value=report.get("value"), returned="value" in report)


def _error(error: Any) -> Error | None:
    if not isinstance(error, dict):
        return None
    name, message, frames = error.get("type"), error.get("message"), error.get("frames")
    if not (isinstance(name, str) and isinstance(message, str) and isinstance(frames, list)):
        return None
    checked = (
        Frame(f[0], str(f[1])[:80], str(f[2])[:160])
        for f in frames[:3]
        if isinstance(f, list) and len(f) == 3 and isinstance(f[0], int)
    )
    return Error(name[:80], message[:500], tuple(checked))
