"""Limits hold against liars: what counts is what arrives, and who sends nothing holds nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from pmd.services.common import bodies, protocol
from pmd.services.common.app import create_service
from pmd.services.common.protocol import Connection
from pmd.services.common.settings import ServiceSettings
from pmd.services.verifier.admission import Admission

TOKEN = "a-token-of-this-test"
LIMIT = 1 << 20
HEAD = f"Host: here\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"


def service(**options: object) -> FastAPI:
    """What a service reads its bodies with, and a route that says how much it has read."""
    app = create_service(
        "gateway",
        ServiceSettings(token=TOKEN),  # type: ignore[arg-type]
        ready=dict,
        max_json_bytes=LIMIT,
        **options,  # type: ignore[arg-type]
    )

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    @app.post("/banks/b:import")
    async def stream(request: Request) -> int:
        return sum([len(part) async for part in request.stream()])

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=Connection, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def say(port: int, *parts: bytes) -> socket.socket:
    """A connection on which `parts` were sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    for part in parts:
        connection.sendall(part)
    return connection


def status(connection: socket.socket) -> int:
    """The status of the answer, 0 when the connection ends without one."""
    with connection:
        head = connection.recv(4096)
    return int(head.split()[1]) if head else 0


def chunks(total: int) -> Iterator[bytes]:
    part = b"x" * (64 << 10)
    for _ in range(total // len(part)):
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("claim", ["", "Content-Length: 2\r\n", f"Content-Length: {LIMIT}\r\n"])
@pytest.mark.parametrize(("size", "expected"), [(LIMIT, 200), (8 * LIMIT, 413)])
def test_a_body_is_measured_by_what_arrives(claim: str, size: int, expected: int) -> None:
    head = f"POST /read HTTP/1.1\r\n{HEAD}{claim}Transfer-Encoding: chunked\r\n\r\n".encode()
    with serving(service()) as port:
        assert status(say(port, head, *chunks(size))) == expected


def test_who_has_sent_it_all_reads_the_refusal() -> None:
    with serving(service()) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for headers in ({"Authorization": f"Bearer {TOKEN}"}, {}):
            answer = http.post("/read", content=b"x" * (32 * LIMIT), headers=headers)
            assert answer.status_code == 413
            assert "at most" in answer.json()["title"]
        refused = http.post("/read", content=b"x" * (LIMIT // 2))
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        wrong = http.put("/read", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")


def test_an_upload_may_be_larger_whatever_type_it_claims() -> None:
    with serving(service()) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert http.post("/banks/b:import", content=b"x" * (2 * LIMIT), headers=headers).json() == 2 * LIMIT
        odd = headers | {"Content-Type": "text/plain"}
        assert http.post("/read", content=b"x" * (2 * LIMIT), headers=odd).status_code == 413


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.3)
    monkeypatch.setattr(bodies, "DRAIN_S", 0.1)
    with serving(service()) as port:
        head = f"POST /read HTTP/1.1\r\n{HEAD}Content-Length: {LIMIT}\r\n\r\n".encode()
        assert status(say(port, head, b"{")) == 408


def test_half_a_head_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)
    with serving(service()) as port:
        silent, half = say(port), say(port, b"GET /healthz HTTP/1.1\r\nHost: he")
        second = say(port, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        read = b""
        while not read.endswith(b"}"):
            read += second.recv(4096)
        second.sendall(b"GET /healthz HTT")
        for each in (silent, half, second):
            with each, suppress(ConnectionResetError):
                assert each.recv(4096) == b""


def test_who_opens_many_connections_takes_no_place_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST", 20)
    with serving(service()) as port:
        hostile = [say(port, b"GET /") for _ in range(60)]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            assert http.get("/healthz").status_code == 200
        for each in hostile:
            each.close()


def test_a_body_that_is_announced_and_not_sent_holds_no_admission() -> None:
    admission = Admission(LIMIT, grace_s=1.0)
    with serving(service(admit=admission.let_in)) as port:
        head = f"POST /read HTTP/1.1\r\n{HEAD}Content-Length: {LIMIT}\r\n\r\n".encode()
        silent = [say(port, head, b"{") for _ in range(5)]
        answer = httpx.post(
            f"http://127.0.0.1:{port}/read",
            content=b"x" * (LIMIT - 4096),
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        assert answer.json() == LIMIT - 4096
        for each in silent:
            each.close()


def test_admission_counts_what_has_come_and_forgets_what_it_refuses() -> None:
    admission = Admission(100, grace_s=1.0)
    with admission.let_in() as first:
        first(60)
        with admission.let_in() as second:
            second(40)
            with pytest.raises(HTTPException) as refused:
                second(1)
            assert (refused.value.status_code, "Retry-After" in (refused.value.headers or {})) == (429, True)
            first(40)
    with admission.let_in() as alone:
        alone(100)


def test_readiness_takes_a_thread_of_those_that_requests_take() -> None:
    ran: list[str] = []

    def ready() -> dict[str, object]:
        ran.append(threading.current_thread().name)
        return {}

    app = create_service("gateway", ServiceSettings(token=TOKEN), ready=ready)  # type: ignore[arg-type]
    with serving(app) as port:
        assert json.loads(httpx.get(f"http://127.0.0.1:{port}/readyz").text)["status"] == "ready"
    assert "AnyIO" in ran[0]
