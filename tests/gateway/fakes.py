"""The four services at the edge of the gateway: the real job protocol over tiny handlers.

Each answers what its contract says and writes real artifacts, so the controller reads what it would read in life.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from pmd.gateway.loop.state import Service
from pmd.gateway.registry.registry import Registry
from pmd.services.common.app import refuse_as_problems
from pmd.services.common.artifacts import MANIFEST, join, local_path, read_table, seal_weights, write_table
from pmd.services.common.client import ServiceClient
from pmd.services.common.columns import CONTEXTS, ROLLOUTS, TAUGHT, VERDICTS
from pmd.services.common.holdings import holdings
from pmd.services.common.jobs import JobContext, JobKind, Retryable
from pmd.services.common.jobstore import JobStore
from pmd.services.common.requests import (
    AbstractRequest,
    GenerateRequest,
    GenerateResult,
    MemoryCounts,
    PublishRequest,
    RecordRequest,
    ReflectRequest,
    RetrieveRequest,
    RetrieveResult,
    SplitScore,
    TrainRequest,
    TrainResult,
    VerifyRequest,
    VerifyResult,
)
from pmd.services.common.runner import JobRunner
from pmd.services.common.tokens import Tokens
from pmd.services.common.wire import Outcome, Policy

TOKEN = "a-token-for-tests"


class LoopTransport(httpx.BaseTransport):
    """Synchronous calls of an ASGI application that lives on an event loop of its own."""

    def __init__(self, app: FastAPI, loop: asyncio.AbstractEventLoop) -> None:
        self._asgi = httpx.ASGITransport(app)
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            response = await self._asgi.handle_async_request(request)
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(timeout=30)


class Fakes:
    """Rollout, verifier, memory and trainer in this process."""

    def __init__(self, folder: Path) -> None:
        self.edits: dict[int, int] = {}
        """Changes of memory by people, by the step that they take effect with."""
        self.done: list[tuple[str, str, dict[str, Any]]] = []
        """(service, key, request) of every handler that ran."""
        self.told: list[tuple[str, str, str]] = []
        """(service, release or prepare, run) as services were told."""
        self.failing: dict[str, list[Exception]] = {}
        """Errors to raise next, by phase name."""
        self.holding: dict[str, threading.Event] = {}
        """Phases whose job runs until the event is set, or it is cancelled."""
        self.deaf: set[str] = set()
        """Phases of `holding` whose job ends by the event alone: it is told to end and looks much later."""
        self.away: set[str] = set()
        """Services that can't be reached."""
        self.passing: Callable[[str, str], bool] = lambda _, rollout: rollout.endswith(("#0", "#1"))
        self.no_context: set[str] = set()
        """Problems without teacher context."""
        self.metrics = {"loss": 0.5}
        """Of each training step."""
        self.measured: Callable[[int], dict[str, float]] = lambda _: {}
        """What else a training step measures, by step."""
        self.drawn: Callable[[int], dict[str, Any]] = lambda _: {}
        """What else is said of rollouts, by the version that drew them."""
        self.folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        handlers: dict[str, dict[str, tuple[type[BaseModel], Callable[[Any], BaseModel]]]] = {
            "rollout": {"generate": (GenerateRequest, self._generate), "publish": (PublishRequest, self._publish)},
            "verifier": {"verify": (VerifyRequest, self._verify)},
            "memory": {
                "record": (RecordRequest, self._write),
                "reflect": (ReflectRequest, self._write),
                "abstract": (AbstractRequest, self._write),
                "retrieve": (RetrieveRequest, self._retrieve),
            },
            "trainer": {"train": (TrainRequest, self._train)},
        }
        self.runners: dict[str, JobRunner] = {}
        self.apps: dict[str, FastAPI] = {}
        for name, kinds in handlers.items():
            self._start(name, kinds)
        self._handlers = handlers

    def _start(self, name: str, kinds: Mapping[str, tuple[type[BaseModel], Callable[[Any], BaseModel]]]) -> None:
        store = JobStore(name, f"sqlite:///{tempfile.mkdtemp(dir=self.folder)}/jobs.db")

        def handler(run: Callable[[Any], BaseModel]) -> Callable[[Any, JobContext], BaseModel]:
            def handle(request: Any, context: JobContext) -> BaseModel:
                phase = context.key.split(".")[-2]
                hold = self.holding.get(phase)
                while hold is not None and not hold.wait(0.005):
                    if phase not in self.deaf:
                        context.check()
                if self.failing.get(phase):
                    raise self.failing[phase].pop(0)
                self.done.append((name, context.key, request.model_dump(mode="json")))
                return run(request)

            return handle

        runner = JobRunner(name, store, {kind: JobKind(req, handler(run)) for kind, (req, run) in kinds.items()})
        app = FastAPI()
        refuse_as_problems(app)
        app.include_router(runner.router())
        told = self.told
        app.include_router(
            holdings(
                release=lambda run: told.append((name, "release", run)),
                prepare=lambda run: told.append((name, "prepare", run)),
            )
        )
        self.runners[name], self.apps[name] = runner, app

    def forget(self, name: str) -> None:
        """The service loses all its jobs, as with a lost disk."""
        self._start(name, self._handlers[name])

    def clients(self) -> dict[Service, ServiceClient]:
        """What `advance` is given."""
        return {Service(name): self._client(name) for name in self.apps}

    def _client(self, name: str) -> ServiceClient:
        fakes, loop = self, self._loop

        class Edge(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                if name in fakes.away:
                    raise httpx.ConnectError("connection refused")
                return LoopTransport(fakes.apps[name], loop).handle_request(request)

        return ServiceClient(f"http://{name}", Tokens(TOKEN), transport=Edge())

    def close(self) -> None:
        for held in self.holding.values():
            held.set()
        for runner in self.runners.values():
            runner.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def jobs(self) -> Counter[str]:
        """How often each key was really worked on."""
        return Counter(key for _, key, _ in self.done)

    # ------------------------------------------------------------ what the services do

    def _generate(self, request: GenerateRequest) -> GenerateResult:
        rows = {row["prompt_id"]: row for row in read_table(request.prompts)}
        ids = list(rows) if request.ids is None else request.ids
        rollouts = [
            {
                "rollout_id": f"{prompt}#{sample}",
                "prompt_id": prompt,
                "problem_id": rows[prompt]["problem_id"],
                "split": rows[prompt]["split"],
                "sample": sample,
                "prompt_ids": [1],
                "token_ids": [2],
                "logprobs": [-0.5],
                "text": "answer",
                "finish_reason": "stop",
                "policy_version": request.policy.weights.version,
            }
            for prompt in ids
            for sample in range(request.n)
        ]
        ref = write_table(request.out, rollouts, ROLLOUTS)
        said = {"tokens": len(rollouts), "truncated": 0} | self.drawn(request.policy.weights.version)
        return GenerateResult(rollouts=ref, **said)

    def _publish(self, request: PublishRequest) -> Policy:
        return request.policy

    def _verify(self, request: VerifyRequest) -> VerifyResult:
        rows = read_table(request.rollouts)
        passed = [self.passing(row["prompt_id"], row["rollout_id"]) for row in rows]
        verdicts = [
            {
                "rollout_id": row["rollout_id"],
                "problem_id": row["problem_id"],
                "split": row["split"],
                "outcome": Outcome.PASSED if good else Outcome.FAILED,
                "reward": float(good),
                "feedback": "",
                "sandbox_tier": "",
                "cpu_ms": 0.0,
            }
            for row, good in zip(rows, passed, strict=True)
        ]
        splits = {}
        for split in sorted({row["split"] for row in rows}):
            mine = [v for v in verdicts if v["split"] == split]
            rate = sum(v["reward"] for v in mine) / len(mine)
            splits[split] = SplitScore(
                problems=len({v["problem_id"] for v in mine}), rollouts=len(mine), pass_rate=rate, pass_at={1: rate}
            )
        outcomes = {Outcome.PASSED: sum(passed), Outcome.FAILED: len(passed) - sum(passed)}
        return VerifyResult(verdicts=write_table(request.out, verdicts, VERDICTS), outcomes=outcomes, splits=splits)

    def _write(self, request: RecordRequest | ReflectRequest | AbstractRequest) -> MemoryCounts:
        edits = self.edits.get(request.step, 0)  # as the service: each job of a step could say so
        return MemoryCounts(seq=request.step, experience=request.step, insight=0, behavior=0, edits=edits)

    def _retrieve(self, request: RetrieveRequest) -> RetrieveResult:
        if request.rollouts is not None:
            pairs = [(r["rollout_id"], r["problem_id"], r["split"]) for r in read_table(request.rollouts)]
        else:
            known = {r["problem_id"]: r["split"] for r in read_table(request.problems)}
            pairs = [(problem, problem, known[problem]) for problem in request.problem_ids or known]
        rows = [
            {
                "prompt_id": prompt,
                "problem_id": problem,
                "split": split,
                "messages": '[{"role": "user", "content": "with advice"}]',
                "has_context": problem not in self.no_context,
                "items": "[]",
                "demonstration": None,
                "feedback": False,
                "seq": 0,
            }
            for prompt, problem, split in pairs
        ]
        shown = sum(row["has_context"] for row in rows)
        ref = write_table(request.out, rows, CONTEXTS)
        return RetrieveResult(contexts=ref, seq=0, with_context=shown, items_used={"demonstration": shown})

    def _train(self, request: TrainRequest) -> TrainResult:
        version = request.from_version + 1
        folder = local_path(join(request.out, f"v{version:04d}"))
        folder.mkdir(parents=True, exist_ok=True)
        body = request.model_dump_json(exclude={"base"}).replace(request.run, "RUN")
        for path in local_path(request.base.uri).iterdir():
            if path.suffix != ".safetensors" and path.name != MANIFEST:
                (folder / path.name).write_bytes(path.read_bytes())
        (folder / "model.safetensors").write_bytes(hashlib.sha256(body.encode()).digest())
        metrics = self.metrics | self.measured(request.step)
        rows = [{"rollout_id": r["rollout_id"], "teacher_logprobs": [-0.25]} for r in read_table(request.rollouts)]
        taught = write_table(join(request.out, "taught", f"v{version:04d}.parquet"), rows, TAUGHT)
        return TrainResult(
            weights=seal_weights(folder, version, {"step": request.step}), metrics=metrics, taught=taught
        )


def retryable(message: str = "a child was killed") -> Exception:
    return Retryable(message)


class Clock:
    """Wall-clock time that can be moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def skip(self, seconds: float) -> None:
        self.ahead += seconds


def status(registry: Registry, run: str) -> str:
    """The status of a run."""
    return str(registry.run(run)["status"])
