"""Noticing that the process is to end before its server says so."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def noticing_termination(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM and SIGINT, before whoever else handles them: uvicorn says nothing until all is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a test's client: its thread gets no signals
        return
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        act()
        before[number](number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler):  # without one the signal ends the process at once, as it should
            before[number] = handler
            signal.signal(number, handle)
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
