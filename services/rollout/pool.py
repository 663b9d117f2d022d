"""A rollout service whose work others do: the same jobs and chat, spread over replicas.

Invariants:
- A `generate` job is cut by its prompts into shares of `SHARE_PROMPTS`, whatever the number of replicas: all samples of
  a prompt are drawn by one replica, and equal engines write equal bytes however many they are.
- Of a share that was drawn twice (its replica was taken for lost) one result counts; each replica writes its own file.
- A share whose replica dies goes to another one. Only when none can draw does the job wait, and says why (Law 12).
- Rows of another version than the one that was asked for are never passed on (Law 9).
- A version is desired once some replica has loaded it; the others draw nothing until they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from hashlib import sha256
from typing import Any, TypeVar

import fsspec
import httpx
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from pmd.services.common import outgoing
from pmd.services.common.app import NotReady, create_service
from pmd.services.common.artifacts import read_table, write_table
from pmd.services.common.client import CONNECT_TIMEOUT_S, ServiceRefused, ServiceUnavailable
from pmd.services.common.columns import ROLLOUTS
from pmd.services.common.holdings import holdings
from pmd.services.common.jobs import Cancelled, JobContext, JobKind, Retryable
from pmd.services.common.jobstore import JobStore
from pmd.services.common.requests import GenerateRequest, GenerateResult, PublishRequest
from pmd.services.common.runner import JobRunner
from pmd.services.common.tokens import Bearer
from pmd.services.common.waiting import AWAY_STATUS, Away, retry_after
from pmd.services.common.wire import Policy
from pmd.services.rollout.chat import ChatCompletion, ChatRequest
from pmd.services.rollout.completion import repetition
from pmd.services.rollout.published import Published, UnknownModel
from pmd.services.rollout.replicas import Check, Replica, Replicas
from pmd.services.rollout.settings import RolloutSettings

T = TypeVar("T")

SHARE_PROMPTS = 4
"""Prompts of a share: few enough that replicas end together, enough to fill a batch with their samples."""
SHARES_AT_ONCE = 2
"""Shares that a replica has: one that it draws, and the next."""
MOST_THREADS = 64
TRIES = 2
"""A share that fails this often, at one replica after another, fails the job."""
CHAT_TIMEOUT_S = 600.0


class Pool:
    """The running service; its state lives in `<state_dir>/rollout`."""

    def __init__(self, settings: RolloutSettings, replicas: Replicas) -> None:
        self.replicas = replicas
        self.published = Published(settings.service_dir("rollout") / "published.sqlite")

    def generate(self, request: GenerateRequest, context: JobContext) -> GenerateResult:
        """Draw as `pmd.services.rollout.handlers.generate` does, by replicas.

        Raises:
            Away: while no replica can draw.
            Retryable: a share failed at several replicas.
            Cancelled: when the job was cancelled.
        """
        ids = request.ids if request.ids is not None else [row["prompt_id"] for row in read_table(request.prompts)]
        shares = {n: ids[i : i + SHARE_PROMPTS] for n, i in enumerate(range(0, len(ids), SHARE_PROMPTS))}
        drawn: dict[int, tuple[str, GenerateResult]] = context.once("drawn", dict)
        tries: Counter[int] = context.once("tries", Counter)

        def draw(replica: Replica, share: int, number: int, check: Check) -> tuple[str, GenerateResult]:
            replica.bring(request.policy, check)
            mark = sha256(replica.url.encode()).hexdigest()[:8]
            out = f"{request.out}.shares/{share:05d}.{mark}.parquet"
            asked = request.model_copy(update={"ids": shares[share], "out": out})
            job = replica.finish(f"{context.key}.{share}.{number}", "generate", asked, check)
            return replica.url, GenerateResult.model_validate(job.result)

        self._spread(list(shares), drawn, tries, draw, context.check)
        rows = []
        by_replica: defaultdict[str, list[str]] = defaultdict(list)
        for share, share_ids in shares.items():
            url, result = drawn[share]
            by_replica[url] += share_ids
            for row in read_table(result.rollouts):
                if row["policy_version"] != request.policy.weights.version:
                    raise Retryable(f"{url} drew with version {row['policy_version']}, not {request.policy.model}")
                rows.append(row)
        results = [drawn[share][1] for share in shares]
        made = GenerateResult(
            rollouts=write_table(request.out, rows, ROLLOUTS),
            tokens=sum(result.tokens for result in results),
            truncated=sum(result.truncated for result in results),
            repetition=sum(repetition(row["token_ids"]) for row in rows) / max(len(rows), 1),
            dtype=next((result.dtype for result in results if result.dtype != "float32"), "float32"),
            replicas={url: tuple(prompts) for url, prompts in sorted(by_replica.items())},
        )
        with contextlib.suppress(OSError):
            fs, path = fsspec.core.url_to_fs(f"{request.out}.shares")
            fs.rm(path, recursive=True)
        return made

    def publish(self, request: PublishRequest, context: JobContext) -> Policy:
        """Load the weights everywhere, then make them the run's desired version.

        Raises:
            Away: no replica can be reached.
            Retryable: no replica could load them.
        """
        failures: list[Exception] = []
        with _stopping() as (stop, threads):
            loads = {threads.submit(replica.bring, request.policy, stop): replica for replica in self.replicas.all()}
            while not all(load.done() for load in loads):
                context.check()
                wait(loads, timeout=1.0)
        for load, replica in loads.items():
            try:
                load.result()
            except (Retryable, ServiceRefused) as error:
                replica.rest(str(error))
                failures.append(error)
        if len(failures) == len(loads):
            tried = next((error for error in failures if not isinstance(error, Away)), None)
            raise Retryable(str(tried)) if tried else Away(self.replicas.why())
        self.published.publish(request.policy)
        return request.policy

    def _spread(
        self,
        work: list[int],
        done: dict[int, T],
        tries: Counter[int],
        do: Callable[[Replica, int, int, Check], T],
        check: Check,
    ) -> None:
        """Do all of `work` that is not `done`, each piece at a replica; `tries` numbers the attempts of each."""
        failed: Counter[int] = Counter()
        waiting = [piece for piece in work if piece not in done]
        running: dict[Future[T], tuple[int, Replica]] = {}
        with _stopping() as (stop, threads):
            while waiting or running:
                check()
                load = Counter(replica.url for _, replica in running.values())
                free = [r for r in self.replicas.willing() for _ in range(SHARES_AT_ONCE - load[r.url])]
                for replica in sorted(free, key=lambda r: load[r.url])[: MOST_THREADS - len(running)]:
                    if waiting:
                        piece = waiting.pop(0)
                        running[threads.submit(do, replica, piece, tries[piece], stop)] = piece, replica
                        tries[piece] += 1
                if not running:
                    raise Away(self.replicas.why())
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    piece, replica = running.pop(future)
                    try:
                        done[piece] = future.result()
                    except Away as error:
                        replica.rest(str(error), error.after_s)
                        waiting.insert(0, piece)
                    except (Retryable, ServiceRefused) as error:
                        replica.rest(str(error))
                        failed[piece] += 1
                        if failed[piece] >= TRIES:
                            raise Retryable(str(error)) from error
                        waiting.insert(0, piece)

    def ready(self) -> dict[str, Any]:
        """What `/readyz` reports: each replica, and each run's desired version with what each has loaded.

        Raises:
            NotReady: when no replica is ready.
        """
        members = self.replicas.all()
        with ThreadPoolExecutor(MOST_THREADS) as threads:
            said = dict(zip(members, threads.map(Replica.probe, members), strict=True))
        if not any("error" not in details for details in said.values()):
            raise NotReady("no replica is ready: " + "; ".join(f"{r.url}: {f['error']}" for r, f in said.items()))
        runs = {}
        for run, policy in self.published.desired().items():
            loaded = {r.url: f.get("runs", {}).get(run, {}).get("loaded") for r, f in said.items()}
            runs[run] = {
                "desired": policy.weights.version,
                "loaded": loaded,
                "ready": policy.weights.version in loaded.values(),
            }
        replicas = {
            r.url: {k: f[k] for k in ("engine", "device", "dtype", "error") if k in f} | {"resting": r.rests}
            for r, f in said.items()
        }
        return {"engine": "replicas", "replicas": replicas, "runs": runs}

    def release(self, run: str) -> None:
        """Let each replica free what it holds of a run; one that is away holds nothing for long."""
        for replica in self.replicas.willing():
            with contextlib.suppress(ServiceUnavailable, ServiceRefused):
                replica.client.release(run)

    def forget(self, run: str) -> int:
        """Have no name of a run that is deleted lead anywhere. For a replica that is away they lead on, to weights that
        are gone."""
        for replica in self.replicas.willing():
            with contextlib.suppress(ServiceUnavailable, ServiceRefused):
                replica.client.forget(run)
        return self.published.forget(run)


@contextlib.contextmanager
def _stopping() -> Iterator[tuple[Check, ThreadPoolExecutor]]:
    """Threads for work at replicas, and what tells them that it is not wanted any more, as it is after the block."""
    over = threading.Event()

    def check() -> None:
        if over.is_set():
            raise Cancelled

    with ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="replica") as threads:
        try:
            yield check, threads
        finally:
            over.set()


def chat_routes(pool: Pool, client: httpx.AsyncClient) -> APIRouter:
    """Chat, passed on to a replica: all requests of a burst to the same one."""
    routes = APIRouter(tags=["chat"])

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """Models that chat can name: each run, and each of its published versions."""
        names = [*pool.published.desired(), *(policy.model for policy in pool.published.all())]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "pmd"} for name in names]
        return {"object": "list", "data": data}

    @routes.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={404: {"description": "no such model"}, 503: {"description": "not ready"}},
    )
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Complete a conversation (OpenAI's protocol)."""
        try:
            policy = pool.published.find(asked.model)
        except UnknownModel as error:
            raise HTTPException(404, str(error)) from error
        body = json.loads(await request.body()) | {"model": policy.model}
        desired = pool.published.desired()[policy.run]
        burst = asked.burst()
        key, tried = burst.key if burst else uuid.uuid4().hex, set[str]()
        while (replica := pool.replicas.for_chat(key, tried)) is not None:
            tried.add(replica.url)
            try:
                await asyncio.to_thread(replica.know, policy, desired, lambda: None)
                sent = client.build_request("POST", f"{replica.url}/v1/chat/completions", json=body)
                answer = await client.send(sent, stream=True)
                if answer.status_code in AWAY_STATUS | {httpx.codes.UNAUTHORIZED}:
                    await answer.aclose()
                    replica.rest(f"HTTP {answer.status_code}", retry_after(answer.headers))
                    continue
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    return StreamingResponse(_pieces(answer), answer.status_code, media_type="text/event-stream")
                content = await answer.aread()  # or it is asked of another one: a request changes nothing
                return Response(content, answer.status_code, media_type=answer.headers.get("content-type"))
            except (httpx.TransportError, Retryable, ServiceRefused) as error:
                replica.rest(f"{type(error).__name__}: {error}")
        raise HTTPException(503, pool.replicas.why())

    return routes


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    except httpx.TransportError as error:
        failure = {"error": {"message": f"the replica broke off: {error}"}}
        yield f"data: {json.dumps(failure)}\n\n".encode()
    finally:
        await answer.aclose()


def job_kinds(pool: Pool) -> Mapping[str, JobKind[Any]]:
    """The jobs of this service: those of every rollout service."""
    return {
        "generate": JobKind(GenerateRequest, pool.generate),
        "publish": JobKind(PublishRequest, pool.publish),
    }


def create_pool(
    settings: RolloutSettings,
    replicas: Replicas | None = None,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """The service over the replicas that `settings` names, as an ASGI application.

    Args:
        replicas: others than those, in tests.
        transport: how chat reaches them, in tests.
    """
    tokens = settings.tokens()
    urls = [url.strip() for url in settings.rollout_replicas.split(",") if url.strip()]
    pool = Pool(settings, replicas or Replicas(urls, tokens))
    jobs = JobRunner(
        "rollout", JobStore("rollout", settings.jobs_database("rollout")), job_kinds(pool), workers=MOST_THREADS
    )
    client = outgoing.inside_async(
        auth=Bearer(tokens),
        timeout=httpx.Timeout(CHAT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        transport=transport,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.recover()
        yield
        jobs.close()
        await client.aclose()

    app = create_service("rollout", settings, ready=pool.ready, lifespan=lifespan)
    for router in (jobs.router(), holdings(release=pool.release, forget=pool.forget), chat_routes(pool, client)):
        app.include_router(router)
    return app
