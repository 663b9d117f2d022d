"""Chat and the models that it can name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError

from pmd.services.common.app import NotReady
from pmd.services.common.artifacts import ArtifactError
from pmd.services.common.jobs import Retryable
from pmd.services.rollout.chat import ChatCompletion, ChatRequest, answer, events
from pmd.services.rollout.completion import DivergedError, NoRoom, UnusableSchema, require_room
from pmd.services.rollout.published import UnknownModel
from pmd.services.rollout.service import Replica

routes = APIRouter(tags=["chat"])


async def _replica(request: Request) -> Replica:
    replica: Replica = request.app.state.replica
    return replica


TheReplica = Annotated[Replica, Depends(_replica)]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong with a chat request into the HTTP error that says so."""
    try:
        yield
    except UnknownModel as error:
        raise HTTPException(404, str(error)) from error
    except (NoRoom, TemplateError) as error:
        raise HTTPException(422, [{"field": "messages", "message": str(error)}]) from error
    except UnusableSchema as error:
        raise HTTPException(422, [{"field": "response_format", "message": str(error)}]) from error
    except DivergedError as error:
        raise HTTPException(500, str(error)) from error
    except (ArtifactError, Retryable, OSError) as error:
        raise HTTPException(503, str(error)) from error


@routes.get("/v1/models")
async def list_models(replica: TheReplica) -> dict[str, Any]:
    """Models that chat can name: each run, and each of its published versions."""
    names = [*replica.published.desired(), *(policy.model for policy in replica.published.all())]
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "pmd"} for name in names]
    return {"object": "list", "data": data}


class Feed:
    """Tokens on their way from the engine's thread to a stream."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Sequence[int]] | None] = asyncio.Queue()
        self._begun = asyncio.Event()

    def said(self, index: int, token_ids: Sequence[int]) -> None:
        """Called from the engine's thread."""
        self._loop.call_soon_threadsafe(self._put, (index, list(token_ids)))

    def end(self, _: object) -> None:
        """Nothing comes after this."""
        self._put(None)

    def _put(self, piece: tuple[int, Sequence[int]] | None) -> None:
        self._queue.put_nowait(piece)
        self._begun.set()

    async def begun(self) -> None:
        """Wait for the first token, or for the end."""
        await self._begun.wait()

    async def pieces(self) -> AsyncIterator[tuple[int, Sequence[int]]]:
        """Places of rows and their next tokens."""
        while (piece := await self._queue.get()) is not None:
            yield piece


@routes.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={404: {"description": "no such model"}, 503: {"description": "not ready"}},
)
async def chat(request: ChatRequest, replica: TheReplica) -> Response:
    """Complete a conversation (OpenAI's protocol)."""
    try:
        engine = replica.engine()
    except NotReady as reason:
        raise HTTPException(503, str(reason)) from reason
    with explained():
        policy = replica.published.find(request.model)
        conversation = [turn.message() for turn in request.messages]
        (prompt_ids,), window = await asyncio.to_thread(engine.render, policy, [conversation])
        sampling = request.sampling(len(prompt_ids), window, replica.settings.rollout_chat_tokens)
        require_room(prompt_ids, sampling.max_tokens, window)
        feed = Feed() if request.stream else None
        said = feed.said if feed else None
        drawing = asyncio.create_task(
            replica.batcher.submit(policy, sampling, request.rows(prompt_ids), request.burst(), said)
        )

        async def whole() -> ChatCompletion:
            return await asyncio.to_thread(
                answer,
                request,
                policy,
                len(prompt_ids),
                await drawing,
                lambda token_ids: engine.tokens_as_text(policy, token_ids),
            )

        if feed is None:
            return JSONResponse((await whole()).model_dump(mode="json"))
        drawing.add_done_callback(feed.end)
        await feed.begun()
        if drawing.done():
            drawing.result()  # what went wrong before the first token is said by the status

    async def stream() -> AsyncIterator[str]:
        try:
            async for each in events(
                request, policy, feed.pieces(), whole, lambda token_ids: engine.as_text(policy, token_ids)
            ):
                yield each
        finally:
            drawing.cancel()  # the client may be gone

    return StreamingResponse(stream(), media_type="text/event-stream")
