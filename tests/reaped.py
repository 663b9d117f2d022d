"""Processes in sessions of their own end with the tests that started them, also where those are killed."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@functools.cache
def _reaper() -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "pmd.gateway.local.reaper"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


@contextmanager
def reaped(group: int) -> Iterator[None]:
    """Kill a process group if this process ends within the context."""
    stdin = _reaper().stdin
    assert stdin is not None
    print(f"+{group}", file=stdin, flush=True)
    try:
        yield
    finally:
        print(f"-{group}", file=stdin, flush=True)
