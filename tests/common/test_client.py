"""Calls between services end, whatever the other side does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from pmd.services.common.client import ServiceClient, ServiceUnavailable

TOKEN = "test-token-0123456789"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("wait", [None, 0.2])
def test_a_service_that_hangs_is_unavailable_after_one_answer_time(
    wait: float | None, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.client.ANSWER_TIMEOUT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="ReadTimeout"):
        ServiceClient(silent, TOKEN).call("GET", "/v1/jobs/a", wait=wait)
    assert 0.3 + (wait or 0.0) <= time.monotonic() - began < 5


@pytest.mark.parametrize("status", [503, 429])
def test_a_service_that_starts_again_or_is_full_is_asked_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    answers = [httpx.ConnectError("connection refused"), httpx.Response(status), httpx.Response(200, json={"a": 1})]

    def answer(_: httpx.Request) -> httpx.Response:
        following = answers.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    client = ServiceClient("http://service", TOKEN, transport=httpx.MockTransport(answer))
    assert client.call("GET", "/v1/jobs/a") == {"a": 1}
