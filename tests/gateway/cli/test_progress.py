"""Progress of a run: what is shown follows from its log, through restarts, and repeats are no news."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from pmd.gateway.cli import follow as following
from pmd.gateway.cli.client import CliError, Gateway
from pmd.gateway.cli.follow import follow
from pmd.gateway.cli.progress import Progress
from pmd.gateway.cli.watch import render
from pmd.gateway.report.units import count, duration, percent, sparkline
from tests.gateway.cli.synthetic import report


def event(seq: int, kind: str, **payload: Any) -> dict[str, Any]:
    return {"seq": seq, "ts": 100.0 + seq, "type": kind, "payload": payload}


def steps() -> list[dict[str, Any]]:
    return [step.model_dump(mode="json") for step in report(steps=12).steps]


def test_recorded_steps_become_figures() -> None:
    progress = Progress(steps=12)
    progress.record(steps())
    assert progress.done == 12
    assert sorted(progress.accuracy["test"]) == [0, 10, 12]
    assert progress.memory["experience"] == 12 * 256
    assert progress.lead is not None
    assert progress.lead > 0


def test_a_step_tells_what_its_training_step_recorded() -> None:
    step = steps()[1] | {"train": {"loss": 0.5, "mismatch_kl": 1e-6, "entropy": 1.25, "lr": 1e-3, "masked": 12.0}}
    (line,) = Progress(steps=12).record([step])
    assert "loss 0.5  kl 1e-06  entropy 1.2  lr 0.001  masked 12" in line


def test_repeats_are_no_news() -> None:
    progress = Progress(steps=12)
    assert len(progress.record(steps()[:5])) == 5
    assert progress.record(steps()[:5]) == []
    assert [line.split()[1] for line in progress.record(steps()[:7])] == ["5/12", "6/12"]


def test_an_evaluation_that_comes_late_is_news_of_its_step() -> None:
    progress = Progress(steps=12)
    early = steps()[:11]
    progress.record([*early[:-1], {**early[-1], "evaluation": {}}])
    (line,) = progress.record(early)
    assert line.startswith("step 10/12  test ")
    assert progress.done == 10


def test_a_failed_phase_is_noted_until_one_succeeds() -> None:
    progress = Progress(steps=1)
    progress.apply(event(1, "phase.submitted", step=1, name="train"))
    assert progress.phase == "train"
    progress.apply(event(2, "phase.failed", step=1, name="train", error="out of memory"))
    assert progress.notice == "train failed and is tried again: out of memory"
    progress.apply(event(3, "phase.succeeded", step=1, name="train"))
    assert progress.notice == ""


def test_the_display_says_all_that_is_known() -> None:
    progress = Progress(steps=12)
    progress.record(steps())
    console = Console(width=110, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(render({"name": "pocket", "method": "pmd"}, progress))
    shown = captured.get()
    for words in ("step 12/12", "memory-free accuracy", "unseen", "teacher's lead", "behaviors", "train"):
        assert words in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_are_spelled_one_way() -> None:
    assert percent(0.874) == "87\u00a0%"
    assert percent(None) == "–"
    assert count(15360) == "15\u2009360"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"


class FlakyGateway:
    """Serves a log of events and drops the connection after each few of them."""

    def __init__(self, log: list[dict[str, Any]], per_connection: int, status: str = "succeeded") -> None:
        self.log, self.per_connection, self.status = log, per_connection, status
        self.resumed_at: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json={"status": self.status})
        after = int(request.headers["last-event-id"])
        self.resumed_at.append(after)
        page = [e for e in self.log if e["seq"] > after][: self.per_connection]
        if len(self.resumed_at) == 2:
            raise httpx.ConnectError("restarting")
        return httpx.Response(200, stream=Broken(page, breaks=len(page) == self.per_connection))


class Broken(httpx.SyncByteStream):
    """Server-sent events, and an end without a goodbye."""

    def __init__(self, page: list[dict[str, Any]], *, breaks: bool) -> None:
        self.page, self.breaks = page, breaks

    def __iter__(self) -> Iterator[bytes]:
        yield b": heartbeat\n\n"
        for each in self.page:
            yield f"id: {each['seq']}\nevent: {each['type']}\ndata: {json.dumps(each)}\n\n".encode()
        if self.breaks:
            raise httpx.RemoteProtocolError("cut")


def gateway(handler: Any) -> Gateway:
    return Gateway("http://gateway", "token", transport=httpx.MockTransport(handler))


def test_following_survives_restarts_and_yields_each_event_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_S", 0.0)
    log = [event(i, "phase.succeeded", name="train") for i in range(1, 8)] + [event(8, "run.ended", status="succeeded")]
    flaky = FlakyGateway(log, per_connection=3)
    assert [e["seq"] for e in follow(gateway(flaky), "r")] == list(range(1, 9))
    assert flaky.resumed_at == [0, 3, 3, 6, 8], "resumed where it was cut"


def test_a_failure_that_was_resumed_does_not_end_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_S", 0.0)
    log = [
        event(1, "run.ended", status="failed"),
        event(2, "run.status", status="queued"),
        event(3, "run.ended", status="x"),
    ]
    assert len(list(follow(gateway(FlakyGateway(log, per_connection=9)), "r"))) == 3


def test_outages_with_a_quiet_connection_between_them_are_not_one_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_S", 0.02)
    monkeypatch.setattr(following, "PATIENCE_S", 0.05)
    answers = iter([*["running", "away"] * 5, "succeeded", "succeeded"])

    def restarts(request: httpx.Request) -> httpx.Response:
        if (status := next(answers)) == "away":
            raise httpx.ConnectError("restarting")
        if request.url.path.endswith("/events"):
            return httpx.Response(200, stream=Broken([], breaks=False))
        return httpx.Response(200, json={"status": status})

    assert list(follow(gateway(restarts), "r")) == []


def test_a_gateway_that_stays_away_ends_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_S", 0.0)
    monkeypatch.setattr(following, "PATIENCE_S", 0.05)

    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(CliError, match="no gateway answers"):
        list(follow(gateway(away), "r"))
