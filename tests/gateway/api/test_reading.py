"""What a recipe names is read in threads of its own."""

from __future__ import annotations

import threading

import anyio
import pytest
from fastapi import HTTPException

from pmd.gateway.api import reading


def test_files_that_hang_take_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE_S", 0.2)
    mounted = threading.Event()
    places, sent_away = reading.Reading(), []

    async def ask() -> None:
        try:
            await places.run(lambda: mounted.wait(10))
        except HTTPException as busy:
            sent_away.append(busy.status_code)

    async def play() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(ask)
            await anyio.sleep(0.5)
            assert await anyio.to_thread.run_sync(lambda: "a thread of the others'") is not None
            mounted.set()
        assert await places.run(lambda: 7) == 7

    anyio.run(play)
    assert sent_away == [503] * (50 - reading.THREADS)
