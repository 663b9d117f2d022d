"""Bodies of requests: how much of one is taken, and how long it may take to arrive.

Invariants:
- What counts is what arrives. A head that announces too much is refused at once; one that announces less than comes, or
  nothing, is refused at the byte that is too many.
- A body arrives at `MIN_BYTES_PER_S` at least, after `PATIENCE_S`; who announces one and sends nothing holds nothing.
- Of a refused body up to `DRAIN_BYTES` are read and thrown away, for at most `DRAIN_S`: a client that is still sending
  would otherwise see a reset in the place of the refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = ":import"
"""The verb of routes that read a body part by part."""
PATIENCE_S = 20.0
MIN_BYTES_PER_S = 64 << 10
DRAIN_BYTES = 64 << 20
DRAIN_S = 10.0


def problem(
    status: int,
    title: str,
    fields: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error body (RFC 9457): `title` is cause and fix, `errors` names the fields."""
    body: dict[str, Any] = {"status": status, "title": title}
    if fields:
        body["errors"] = fields
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


Admit = Callable[[], AbstractContextManager[Callable[[int], None]]]
"""Lets a request in while it is entered, and is told of the bytes of its body as they come; both may raise
`HTTPException`."""


@contextlib.contextmanager
def anyone() -> Iterator[Callable[[int], None]]:
    """Let every request in."""
    yield lambda _: None


class BodyLimit:
    """ASGI middleware over everything that reads a body."""

    def __init__(
        self, app: ASGIApp, *, max_json_bytes: int, max_bytes: int, admit: Admit, max_bytes_of: Mapping[str, int] = {}
    ) -> None:
        """Args:
        max_json_bytes: largest body but an upload; it is parsed while all other requests wait.
        max_bytes: largest upload.
        max_bytes_of: largest body of what is sent to a path, by path.
        """
        self.app, self.max_json_bytes, self.max_bytes, self.admit = app, max_json_bytes, max_bytes, admit
        self.max_bytes_of = max_bytes_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)  # no body
            return
        limit = self.max_bytes if scope["path"].endswith(UPLOAD) else self.max_json_bytes
        limit = self.max_bytes_of.get(scope["path"], limit)
        body = _Body(receive, limit)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if not started and not body.complete:
                await body.drain()
            first, started = not started, True
            if body.refusal is None:
                await send(message)
            elif first:  # in the place of what the application makes of a body that broke off
                await body.refusal(scope, receive, send)

        if not (length.isdecimal() and int(length[:20]) <= limit):
            body.refusal = problem(413, f"the body has {length[:20]} bytes; at most {limit} are taken")
        with contextlib.ExitStack() as admitted:
            try:
                body.count = admitted.enter_context(self.admit())
            except HTTPException as error:
                body.refuse(error)
            if body.refusal is None:
                await self.app(scope, body.receive, answer)
            else:
                await answer({})


class _Body:
    """The body of one request, counted."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._began = 0.0
        self.arrived = 0
        self.complete = False
        self.refusal: JSONResponse | None = None
        self.count: Callable[[int], None] = lambda _: None

    async def receive(self) -> Message:
        """The next part. After the last one, whatever comes: the end of the client.

        Of a body that is refused the application sees the client's end, which all that stand between us and it
        understand; an exception would reach some of them in another's clothes.
        """
        if self.complete:
            return await self._receive()
        self._began = self._began or asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(self._began + PATIENCE_S + self.arrived / MIN_BYTES_PER_S):
                message = await self._receive()
            self._note(message)
            if self.arrived > self._limit:
                raise HTTPException(413, f"the body has more than {self._limit} bytes; at most so many are taken")
            self.count(len(message.get("body", b"")))
        except TimeoutError:
            self.refuse(HTTPException(408, f"only {self.arrived} bytes of the body came in time; send it again"))
        except HTTPException as error:
            self.refuse(error)
        return message if self.refusal is None else {"type": "http.disconnect"}

    def refuse(self, error: HTTPException) -> None:
        """Take no more of it."""
        self.refusal = problem(error.status_code, str(error.detail))
        self.refusal.headers.update(error.headers or {})

    async def drain(self) -> None:
        """Read on, and throw away what comes."""
        until = self.arrived + DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not self.complete and self.arrived < until:
                    self._note(await self._receive())

    def _note(self, message: Message) -> None:
        self.arrived += len(message.get("body", b""))
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
