"""Event streams: every reader gets all, and many readers cost what one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pmd.gateway.api import events
from pmd.gateway.api.events import Tails
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import Registry
from pmd.gateway.views import EventView, RunStatus


class Counted(Registry):
    """A registry that counts how often its log is read."""

    reads = 0
    broken = False

    def events(self, run: str, **page: Any) -> list[EventView]:
        self.reads += 1
        if self.broken:
            raise OSError(5, "Input/output error")
        return super().events(run, **page)


@pytest.fixture
def run(start: Callable[..., str], recipe: Callable[..., Recipe]) -> str:
    return start(recipe())


@pytest.fixture
def counted(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(events, "TAIL_S", 0.02)
    return Counted(registry.database)


async def seqs(stream: AsyncIterator[str]) -> list[int]:
    """The ids of a stream's events, to its end."""
    return [int(line.split()[1]) async for line in stream if line.startswith("id: ")]


def end(registry: Registry, run: str) -> None:
    lease = registry.claim(run, "me")
    assert lease is not None
    registry.finish(lease, RunStatus.CANCELLED)


def test_many_readers_look_at_a_log_as_often_as_one(counted: Counted, run: str) -> None:
    async def watched(readers: int) -> int:
        tails = Tails(counted)
        reading = [asyncio.create_task(seqs(tails.stream(run, 0))) for _ in range(readers)]
        await asyncio.sleep(0.1)
        counted.reads = 0
        await asyncio.sleep(0.5)
        looked = counted.reads
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        assert tails._tails == {}, "who reads no more leaves nothing behind"
        return looked

    one, many = asyncio.run(watched(1)), asyncio.run(watched(50))
    assert 0 < many <= 2 * one


def test_readers_that_come_at_any_time_get_each_event_once(
    counted: Counted, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAGE", 3)  # the tail keeps little, so late readers have to read for themselves

    async def scene() -> list[list[int]]:
        tails = Tails(counted)
        reading = [asyncio.create_task(seqs(tails.stream(run, 0)))]
        for after in range(8):
            await asyncio.sleep(0.01)
            if after % 2:
                counted.ask(run, "pause")
            reading.append(asyncio.create_task(seqs(tails.stream(run, after))))
        end(counted, run)
        return await asyncio.wait_for(asyncio.gather(*reading), 10)

    first, *others = asyncio.run(scene())
    assert first == list(range(1, len(first) + 1))
    assert others == [first[after:] for after in range(8)]


def test_a_log_that_can_not_be_read_ends_its_streams_and_the_next_one_works(counted: Counted, run: str) -> None:
    async def scene() -> list[int]:
        tails = Tails(counted)
        counted.broken = True
        reading = [asyncio.create_task(seqs(tails.stream(run, 0))) for _ in range(3)]
        ends = await asyncio.wait_for(asyncio.gather(*reading, return_exceptions=True), 10)
        assert [type(one) for one in ends] == [OSError] * 3
        counted.broken = False
        end(counted, run)
        return await asyncio.wait_for(seqs(tails.stream(run, 0)), 10)

    assert asyncio.run(scene())
