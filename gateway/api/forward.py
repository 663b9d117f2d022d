"""What the gateway passes on: chat to the rollout service, memory to its service, completions to the verifier.

Invariants:
- A body is passed on byte for byte, streams included.
- A service that starts again is waited for, for `PATIENCE_S`; then it is 503 with its name and `Retry-After`. Only what
  no service has received or looked at, or what changes nothing, is sent again.
- A token that a service refuses is ours and not the caller's: it is waited for, and is 503 too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from pmd.gateway.views import ServiceView
from pmd.services.common import outgoing
from pmd.services.common.bank import ItemPage, ItemView
from pmd.services.common.client import CONNECT_TIMEOUT_S
from pmd.services.common.tokens import REFUSED, Bearer, Tokens
from pmd.services.common.waiting import delay
from pmd.services.common.wire import Level

READY_TIMEOUT_S = 3.0
PATIENCE_S = 5.0
"""Longest wait for a service that takes no connection or says 503: about as long as one takes to start again."""
GENERATION_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 30.0
FILE_TIMEOUT_S = 600.0
SAMPLES: Mapping[Level, Mapping[str, int]] = {
    "behavior": {"behavior": 5},
    "insight": {"strategy": 3, "lesson": 2},
    "experience": {"attempt": 2},
}
"""How many memories a report shows, by level and kind."""
SAMPLED_FROM = 100
"""Newest memories of a kind that the shown ones are chosen from."""
PASSED_ON = (b"content-type", b"if-match", b"idempotency-key", b"x-pmd-actor")
GIVEN_BACK = ("content-type", "etag", "retry-after", "allow", "location", "link", "www-authenticate")


class Forwarder:
    """Connections from the gateway's event loop to the services."""

    def __init__(
        self,
        urls: Mapping[str, str],
        tokens: Tokens,
        *,
        transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._urls = dict(urls)
        self._clients = {
            name: outgoing.inside_async(
                base_url=url,
                auth=Bearer(tokens),
                timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                transport=(transports or {}).get(name),
            )
            for name, url in urls.items()
        }

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    async def get(
        self, service: str, path: str, params: Mapping[str, Any] | None = None, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Response:
        """The answer of a service to a GET, as it came."""
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        given = {key: value for key, value in (params or {}).items() if value is not None}
        try:
            answer = await _patiently(
                service, lambda: self._clients[service].get(path, params=given, timeout=timeout), reads=True
            )
        except httpx.TransportError as error:
            raise _away(service, error) from error
        return _same(answer, answer.content)

    async def same(
        self,
        service: str,
        path: str,
        request: Request,
        params: Mapping[str, str] | None = None,
        *,
        streams: bool = False,
    ) -> Response:
        """The answer of a service to the caller's own request under another path, query and preconditions included.

        Args:
            streams: neither body nor answer is held in memory; for files.
        """
        client = self._clients[service]
        given = params if params is not None else httpx.QueryParams(request.url.query)
        headers = _passed_on(request)
        body: AsyncIterator[bytes] | bytes | None = await request.body() or None if not streams else None
        if streams and request.method != "GET":
            body = request.stream()
            if "transfer-encoding" not in request.headers:  # else how long it is is not known, whatever is claimed
                headers[b"content-length"] = request.headers.get("content-length", "0").encode()
        url = httpx.URL(client.base_url).join(quote(path, safe="/:@"))
        timeout = httpx.Timeout(FILE_TIMEOUT_S if streams else ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        outgoing = client.build_request(
            request.method, url, params=given, content=body, headers=headers, timeout=timeout
        )
        try:
            # A streamed body has not been touched as long as there is no connection.
            reads = request.method == "GET"
            whole = reads or not streams
            answer = await _patiently(service, lambda: client.send(outgoing, stream=streams), reads=reads, whole=whole)
        except httpx.TransportError as error:
            raise _away(service, error) from error
        if not streams:
            return _same(answer, answer.content)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_bytes():
                    yield chunk
            finally:
                await answer.aclose()

        return StreamingResponse(chunks(), answer.status_code, headers=_kept(answer))

    async def post(self, service: str, path: str, request: Request) -> Response:
        """The answer of a service to the caller's own body, streamed when it streams."""
        client = self._clients[service]
        body = await request.body()
        outgoing = client.build_request(
            "POST",
            path,
            content=body,
            headers={b"content-type": b"application/json", **_passed_on(request)},
            timeout=httpx.Timeout(GENERATION_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )
        try:
            answer = await _patiently(service, lambda: client.send(outgoing, stream=True), reads=True)
        except httpx.TransportError as error:
            raise _away(service, error) from error
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            try:
                return _same(answer, await answer.aread())
            except httpx.TransportError as error:
                raise _away(service, error) from error
            finally:
                await answer.aclose()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_bytes():
                    yield chunk
            except httpx.TransportError as error:
                failure = {"error": {"message": f"the {service} service broke off: {error}"}}
                yield f"data: {json.dumps(failure)}\n\n".encode()
            finally:
                await answer.aclose()

        return StreamingResponse(chunks(), answer.status_code, media_type="text/event-stream")

    async def send(
        self, service: str, path: str, body: Mapping[str, Any], timeout_s: float = GENERATION_TIMEOUT_S
    ) -> Response:
        """The answer of a service to a body of ours."""
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        # In ASCII: httpx itself can't write a text that no encoding can, which is for the service to refuse.
        content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            client = self._clients[service]
            answer = await _patiently(
                service, lambda: client.post(path, content=content, headers=headers, timeout=timeout), reads=True
            )
        except httpx.TransportError as error:
            raise _away(service, error) from error
        return _same(answer, answer.content)

    async def send_file(self, service: str, path: str, content: bytes) -> Response:
        """The answer of a service to a file of ours that changes nothing there."""
        timeout = httpx.Timeout(FILE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            answer = await _patiently(
                service, lambda: self._clients[service].post(path, content=content, timeout=timeout), reads=True
            )
        except httpx.TransportError as error:
            raise _away(service, error) from error
        return _same(answer, answer.content)

    async def delete(self, service: str, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """The answer of a service to a DELETE that may be sent again."""
        timeout = httpx.Timeout(FILE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            answer = await _patiently(
                service, lambda: self._clients[service].delete(path, headers=headers, timeout=timeout), reads=True
            )
        except httpx.TransportError as error:
            raise _away(service, error) from error
        return _same(answer, answer.content)

    async def services(self) -> list[ServiceView]:
        """What each service says of itself at this moment."""
        return list(await asyncio.gather(*(self._ready(name) for name in self._clients)))

    async def _ready(self, name: str) -> ServiceView:
        view = ServiceView(name=name, url=outgoing.shown(self._urls[name]), ready=False)
        try:
            answer = await self._clients[name].get("/readyz", timeout=READY_TIMEOUT_S)
            details = answer.json()
        except (httpx.TransportError, ValueError) as error:
            return view.model_copy(update={"error": f"{type(error).__name__}: {error}"})
        if answer.is_success:
            return view.model_copy(update={"ready": True, "details": details})
        return view.model_copy(update={"error": str(details.get("title", answer.status_code))})

    async def memory_samples(self, bank: str, levels: tuple[Level, ...]) -> dict[str, list[str]]:
        """A few items of each level as the model wrote them, those with the most evidence; none while the memory
        service is away."""
        samples: dict[str, list[str]] = {}
        for level in levels:
            for kind, shown in SAMPLES[level].items():
                asked: dict[str, str | int] = {"level": level, "kind": kind, "limit": SAMPLED_FROM}
                try:
                    answer = await self._clients["memory"].get(
                        f"/v1/banks/{bank}/items", params=asked, timeout=READY_TIMEOUT_S
                    )
                    items = ItemPage.model_validate_json(answer.content).items if answer.is_success else []
                    items.sort(key=_evidence, reverse=True)
                    texts = dict.fromkeys(item.text for item in items)  # problems may share a note
                    samples.setdefault(level, []).extend(list(texts)[:shown])
                except (httpx.TransportError, ValueError):
                    continue  # the report is worth reading without them
        return {level: texts for level, texts in samples.items() if texts}


async def _patiently(
    service: str, send: Callable[[], Awaitable[httpx.Response]], *, reads: bool, whole: bool = True
) -> httpx.Response:
    """The answer to `send`, asked for again while the service can't be reached, refuses our token or, where it only
    reads, says 503.

    Args:
        whole: the body is at hand, so it can be sent again.

    Raises:
        httpx.TransportError: when it still can't be reached after `PATIENCE_S`, or broke off.
        HTTPException: when it still refuses our token then.
    """
    began = time.monotonic()
    while True:
        pause = delay(time.monotonic() - began)
        late = time.monotonic() - began + pause > PATIENCE_S
        try:
            answer = await send()
            refused = answer.status_code == httpx.codes.UNAUTHORIZED
            again = whole if refused else reads and answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not refused and (late or not again):
                return answer
            await answer.aclose()
            if late or not again:
                raise HTTPException(503, f"the {service} service can't be asked now: {REFUSED}")
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if late:
                raise
        await asyncio.sleep(pause)


def _evidence(item: ItemView) -> tuple[int, int, int]:
    """Problems that agree, then attempts that followed it and passed, then all that followed it."""
    return item.support or 0, item.successes or 0, item.trials or 0


def _passed_on(request: Request) -> dict[bytes, bytes]:
    """As bytes: a header may hold what httpx would not write; it is for the service to refuse."""
    return {name: value for name, value in request.headers.raw if name in PASSED_ON}


def _away(service: str, error: Exception) -> HTTPException:
    return HTTPException(503, f"the {service} service is out of reach ({type(error).__name__}); see GET /v1/services")


def _same(answer: httpx.Response, content: bytes) -> Response:
    return Response(content, answer.status_code, headers=_kept(answer))


def _kept(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name in GIVEN_BACK if (value := answer.headers.get(name)) is not None}
