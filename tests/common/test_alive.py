"""A server that hangs is told from one that works, and the job that waits for it says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from pmd.services.common import alive
from pmd.services.common.alive import Watch, lives
from pmd.services.common.jobs import JobContext, working_on
from pmd.services.common.runner import _Hand

REASON = "the embedder does not answer"


def client(answer: Callable[[], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://server/v1", transport=httpx.MockTransport(lambda _: answer()))


def hangs() -> httpx.Response:
    raise httpx.ReadTimeout("timed out")


def crowded() -> httpx.Response:
    raise httpx.PoolTimeout("no connection of ours is free")


@pytest.mark.parametrize("status", [200, 401, 404, 429, 500, 503])
def test_any_answer_is_a_sign_of_life(status: int) -> None:
    assert lives(client(lambda: httpx.Response(status)), "/models")


def test_silence_is_none_but_our_own_crowd_is_not_the_servers_silence() -> None:
    assert not lives(client(hangs), "/models")
    assert lives(client(crowded), "/models")


def until(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def test_a_job_says_that_a_server_is_silent_for_as_long_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "SILENCE_S", 0.01)
    answers: list[Callable[[], httpx.Response]] = [hangs]
    server = client(lambda: answers[-1]())  # noqa: PLW0108 -- what is last then, not now
    job = JobContext("a", threading.Event())
    hand = _Hand(job)
    with working_on(job), Watch(server, "/models", "the embedder"):
        until(lambda: hand.seen().get("waiting") == REASON)
        since = hand.seen()["waiting_since"]
        time.sleep(0.05)
        assert hand.seen() == {"waiting": REASON, "waiting_since": since}, "since when is not forgotten"
        answers.append(lambda: httpx.Response(404))
        until(lambda: hand.seen() == {})
        answers.append(hangs)
        until(lambda: hand.seen() != {})
    assert hand.seen() == {}, "what was asked has been answered"


def test_outside_of_jobs_nobody_is_told_and_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "SILENCE_S", 0.0)
    with Watch(client(lambda: pytest.fail("asked")), "/models", "the embedder"):
        time.sleep(0.05)
