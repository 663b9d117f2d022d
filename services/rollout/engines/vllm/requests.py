"""A request of vLLM's server for each row: what is asked, and what an answer means.

Invariants:
- Each row has a seed of its own, so what is drawn for it does not depend on who is drawn beside it (up to rounding).
- A row is finished when it ended by itself or was cut off at its limit; any other end is the child's death.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import httpx

from pmd.services.common import outgoing
from pmd.services.common.wire import Sampling
from pmd.services.rollout.completion import DivergedError, Row, UnusableSchema
from pmd.services.rollout.engines import Said
from pmd.services.rollout.engines.vllm.server import Gone


@dataclass(frozen=True)
class Tokens:
    """What was drawn for a row."""

    ids: list[int]
    logprobs: list[float]
    """Of each of `ids`, in nats."""
    reason: Literal["stop", "length"]


def seed_of(row: Row) -> int:
    """The seed of a row's request: 63 bits that depend on its seed and its stream."""
    name = f"{row.seed % 2**64}.{row.stream % 2**64}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


async def complete(
    socket: Path,
    model: str,
    rows: Mapping[int, Row],
    sampling: Sampling,
    ends: frozenset[int],
    *,
    salt: str,
    at_once: int,
    enough: Callable[[], bool],
    finished: dict[int, Tokens],
    said: Said | None,
) -> None:
    """Draw rows into `finished`, under their keys, at most `at_once` side by side.

    Args:
        socket: where the server listens.
        model: what it calls the weights.
        salt: rows of equal salts share cached prefixes.
        enough: asked after each row; when it says so, no further one is begun.
        said: told of a row's tokens so far as they are drawn; None when nobody listens.

    Raises:
        DivergedError: the model's logits are not finite.
        Gone: the server died.
        UnusableSchema: a row's schema is one that vLLM can't hold a completion to.
    """
    common = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "logprobs": 0,
        "return_token_ids": True,
        "stop_token_ids": sorted(ends),
        "ignore_eos": True,  # `ends` has it
        "skip_special_tokens": False,
        "cache_salt": salt,
    }
    pending = iter(rows.items())
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits)

    async def worker(http: httpx.AsyncClient) -> None:
        for i, row in pending:
            finished[i] = await _complete(http, row, common, None if said is None else partial(said, i))
            if enough():
                return

    # No time limit: long completions take long.
    async with outgoing.inside_async(transport=transport, base_url="http://vllm", timeout=None) as http:
        workers = [asyncio.create_task(worker(http)) for _ in range(min(len(rows), at_once))]
        try:
            await asyncio.gather(*workers)
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _complete(
    http: httpx.AsyncClient, row: Row, common: Mapping[str, Any], said: Callable[[list[int]], None] | None
) -> Tokens:
    """What is drawn for a row."""
    body = {**common, "prompt": list(row.prompt_ids), "seed": seed_of(row), "stream": said is not None}
    if row.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": json.loads(row.schema)},
        }
    token_ids: list[int] = []
    logprobs: list[float] = []
    reason = None
    try:
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                _refuse(answer.status_code, (await answer.aread()).decode(errors="replace")[:500], row)
            async for choice in _choices(answer, streamed=said is not None):
                token_ids += choice["token_ids"]
                logprobs += choice["logprobs"]["token_logprobs"] if choice["logprobs"] else []
                reason = choice["finish_reason"] or reason
                if said is not None:
                    said(token_ids)
    except httpx.TransportError as error:
        raise Gone(f"{type(error).__name__} {error}") from error
    if not all(map(math.isfinite, logprobs)):
        raise DivergedError
    if reason not in ("stop", "length") or len(logprobs) != len(token_ids):
        raise Gone(f"a completion ended by {reason!r}")
    return Tokens(token_ids, logprobs, reason)


async def _choices(answer: httpx.Response, *, streamed: bool) -> AsyncIterator[dict[str, Any]]:
    """The choice of each event of a stream, or the one of a whole answer.

    Raises:
        Gone: the stream tells of an error.
    """
    if not streamed:
        yield json.loads(await answer.aread())["choices"][0]
        return
    async for line in answer.aiter_lines():
        data = line.removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise Gone(str(event["error"])[:500])
        yield {"logprobs": None, "finish_reason": None, "token_ids": [], **event["choices"][0]}


def _refuse(status: int, text: str, row: Row) -> NoReturn:
    """Raise what an answer without a completion means."""
    if row.schema is not None and status == 400:
        raise UnusableSchema(text)
    if status >= 500 and "JSON" in text:  # which has no number that is none
        raise DivergedError
    if status >= 500:
        raise Gone(f"{status}: {text}")
    raise RuntimeError(f"vLLM answers {status}: {text}")
