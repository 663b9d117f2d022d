"""The rollout service: jobs `generate` and `publish`, chat, models.

Invariants:
- `/healthz` answers at once; torch and the weights load in the background, and `/readyz` is 503 until then.
- A restarted replica loads what its runs had published; `/readyz` lists each run's desired and loaded version,
  and the run is ready when they are equal. A run whose weights are gone or can't be loaded is listed as not ready and
  does not take the replica away from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError

from pmd.services.common.app import NotReady, create_service
from pmd.services.common.artifacts import ArtifactError
from pmd.services.common.holdings import holdings
from pmd.services.common.jobs import JobStore, Retryable
from pmd.services.common.runner import JobRunner
from pmd.services.common.wire import Policy, Sampling
from pmd.services.rollout.batching import Batcher
from pmd.services.rollout.chat import ChatCompletion, ChatRequest, answer, events
from pmd.services.rollout.completion import Completion, DivergedError, NoRoom, Row, require_room
from pmd.services.rollout.handlers import job_kinds
from pmd.services.rollout.published import Published, UnknownModel
from pmd.services.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from pmd.services.rollout.engines import Engine

log = logging.getLogger(__name__)


def start_engine(settings: RolloutSettings, published: Published) -> Engine:
    """Import torch, make the engine, load the desired version of the runs that fit."""
    # Threads that spin while they wait cost a factor of 20 on shared cores; OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from pmd.services.rollout.engines.transformers.engine import TransformersEngine  # noqa: PLC0415 -- imports torch

    engine: Engine = TransformersEngine(settings)
    for policy in reversed(list(islice(published.desired().values(), settings.rollout_resident_runs))):
        try:
            engine.load(policy)
        except Exception:  # whatever is wrong with one run's weights, the others are served
            log.exception("published weights cannot be loaded", extra={"model": policy.model})
    return engine


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong with a chat request into the HTTP error that says so."""
    try:
        yield
    except UnknownModel as error:
        raise HTTPException(404, str(error)) from error
    except (NoRoom, TemplateError) as error:
        raise HTTPException(422, [{"field": "messages", "message": str(error)}]) from error
    except DivergedError as error:
        raise HTTPException(500, str(error)) from error
    except (ArtifactError, Retryable, OSError) as error:
        raise HTTPException(503, str(error)) from error


def create_app(settings: RolloutSettings) -> FastAPI:
    """The service as an ASGI application; its state lives in `<state_dir>/rollout`."""
    folder = settings.service_dir("rollout")
    published = Published(folder / "published.sqlite")
    starting: Future[Engine] = Future()

    def start() -> None:
        try:
            starting.set_result(start_engine(settings, published))
        except Exception as error:  # reported by /readyz and by every job, which waits for somebody to mend it
            log.exception("the engine does not start")
            starting.set_exception(error)

    def engine() -> Engine:
        """The engine.

        Raises:
            NotReady: while it starts, or when it could not.
        """
        if not starting.done():
            raise NotReady("the engine is starting: torch and the published weights are being loaded")
        if cause := starting.exception():
            raise NotReady(f"the engine does not start: {cause}; install the extra 'rollout' and see the log")
        return starting.result()

    jobs = JobRunner("rollout", JobStore(folder / "jobs.sqlite"), job_kinds(engine, published))

    def draw(policy: Policy, rows: Sequence[Row], sampling: Sampling) -> list[Completion]:
        return engine().generate(policy, rows, sampling, lambda: None)

    batcher = Batcher(draw, settings.rollout_burst_wait_s)

    def ready() -> dict[str, Any]:
        loaded = engine().loaded()
        runs = {
            run: {
                "desired": policy.weights.version,
                "loaded": loaded.get(run),
                "ready": loaded.get(run) == policy.weights.version,
            }
            for run, policy in published.desired().items()
        }
        return {**engine().facts(), "runs": runs}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=start, name="rollout-start", daemon=True).start()
        jobs.recover()
        queue = asyncio.create_task(batcher.run())
        yield
        queue.cancel()
        jobs.close()

    app = create_service("rollout", settings, ready=ready, lifespan=lifespan)
    for router in (jobs.router(), holdings(release=lambda run: engine().release(run))):
        app.include_router(router)

    @app.get("/v1/models", tags=["chat"])
    async def list_models() -> dict[str, Any]:
        """Models that chat can name: each run, and each of its published versions."""
        names = [*published.desired(), *(policy.model for policy in published.all())]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "pmd"} for name in names]
        return {"object": "list", "data": data}

    @app.post(
        "/v1/chat/completions",
        tags=["chat"],
        response_model=ChatCompletion,
        responses={404: {"description": "no such model"}, 503: {"description": "not ready"}},
    )
    async def chat(request: ChatRequest) -> Response:
        """Complete a conversation (OpenAI's protocol)."""
        try:
            ready_engine = engine()
        except NotReady as reason:
            raise HTTPException(503, str(reason)) from reason
        with explained():
            policy = published.find(request.model)
            conversation = [turn.message() for turn in request.messages]
            (prompt_ids,), window = await asyncio.to_thread(ready_engine.render, policy, [conversation])
            sampling = request.sampling(len(prompt_ids), window, settings.rollout_chat_tokens)
            require_room(prompt_ids, sampling.max_tokens, window)
            completions = await batcher.submit(policy, sampling, request.rows(prompt_ids), request.burst())
            completion = await asyncio.to_thread(
                answer,
                request,
                policy,
                len(prompt_ids),
                completions,
                lambda token_ids: ready_engine.tokens_as_text(policy, token_ids),
            )
        if request.stream:
            return StreamingResponse(events(completion, request.stream_options), media_type="text/event-stream")
        return JSONResponse(completion.model_dump(mode="json"))

    return app
