"""Calls between services end, whatever the other side does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from pmd.gateway.controller.advance import POLL_S
from pmd.services.common import alive
from pmd.services.common.client import ServiceClient, ServiceRefused, ServiceUnavailable
from pmd.services.common.tokens import Tokens

TOKEN = "test-token-0123456789"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("wait", [None, 0.2])
def test_a_service_that_hangs_is_unavailable_long_before_an_answer_time_is_over(
    wait: float | None, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.alive.SILENCE_S", 0.2)
    monkeypatch.setattr("pmd.services.common.alive.SIGN_TIMEOUT_S", 0.1)
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="it does not answer"):
        ServiceClient(silent, Tokens(TOKEN)).call("GET", "/v1/jobs/a", wait=wait)
    assert 0.3 + (wait or 0.0) <= time.monotonic() - began < 5


def test_a_controller_names_a_service_that_hangs_within_ten_seconds() -> None:
    assert POLL_S + alive.SILENCE_S + alive.SIGN_TIMEOUT_S < 10


@pytest.mark.parametrize(("answer_s", "answered"), [(0.5, True), (30.0, False)])
def test_a_service_that_is_slow_but_lives_gets_its_answer_time(
    answer_s: float, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.alive.SILENCE_S", 0.2)
    monkeypatch.setattr("pmd.services.common.client.ANSWER_TIMEOUT_S", 2.0)
    began = time.monotonic()
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        read = request.extensions["timeout"]["read"]
        if request.url.path == "/healthz":
            return httpx.Response(200)
        time.sleep(min(read, answer_s))
        if read < answer_s:
            raise httpx.ReadTimeout("too late")
        return httpx.Response(200, json={"a": 1})

    service = ServiceClient("http://service", Tokens(TOKEN), transport=httpx.MockTransport(answer))
    if answered:
        assert service.call("GET", "/v1/jobs/a") == {"a": 1}
        assert asked == ["/v1/jobs/a", "/healthz", "/v1/jobs/a"]
    else:
        with pytest.raises(ServiceUnavailable, match="it does not answer"):
            service.call("GET", "/v1/jobs/a")
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [503, 429])
def test_a_service_that_starts_again_or_is_full_is_asked_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    answers = [httpx.ConnectError("connection refused"), httpx.Response(status), httpx.Response(200, json={"a": 1})]

    def answer(_: httpx.Request) -> httpx.Response:
        following = answers.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    service = ServiceClient("http://service", Tokens(TOKEN), transport=httpx.MockTransport(answer))
    assert service.call("GET", "/v1/jobs/a") == {"a": 1}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>one moment, secret"),
        httpx.Response(302, headers={"Location": "http://login/secret"}),
        httpx.Response(200, json={"hello": "secret"}),
        httpx.Response(200, json=["secret"]),
    ],
)
def test_what_stands_in_a_services_place_is_waited_for(answer: httpx.Response, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    service = ServiceClient("http://service", Tokens(TOKEN), transport=httpx.MockTransport(lambda _: answer))
    with pytest.raises(ServiceUnavailable, match="http://service can't serve now: ") as away:
        service.poll("a", 0)
    assert "secret" not in str(away.value)


def test_of_a_refusal_only_our_own_sentences_are_repeated() -> None:
    errors = [{"field": "request.step", "message": "must be a number", "input": "secret"}]
    ours = httpx.Response(422, json={"title": "the request is wrong", "errors": errors, "input": "secret"})
    theirs = httpx.Response(403, text="<p>key sk-secret is not known</p>")
    for answer, said in ((ours, "HTTP 422 the request is wrong; request.step: must be a number"), (theirs, "HTTP 403")):
        service = ServiceClient("http://service", Tokens(TOKEN), transport=httpx.MockTransport(lambda _, a=answer: a))
        with pytest.raises(ServiceRefused) as refused:
            service.poll("a", 0)
        assert str(refused.value) == f"GET http://service/v1/jobs/a: {said}"
