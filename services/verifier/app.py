"""The verifier's HTTP face: `POST /v1/verify` for a few completions now, job `verify` for an artifact of rollouts.

Invariants:
- The service does not start where it can't isolate programs, unless its settings say so.
- What it holds is bounded: bodies by `Admission`, programs by `Pool`. Too much is 429 with `Retry-After`, before it is
  read.
- When it stops, a request under way gets its verdicts within the time that uvicorn leaves it, or 503; jobs under way
  stay without an end and run again. Every zygote and child stops with the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict
from types import FrameType
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from pmd.services.common.app import NotReady, create_service, known_query, problem
from pmd.services.common.artifacts import ArtifactError, read_problems, read_table, write_table
from pmd.services.common.columns import VERDICTS
from pmd.services.common.jobs import JobContext, JobKind, JobStore
from pmd.services.common.requests import VerifyRequest, VerifyResult
from pmd.services.common.runner import JobRunner
from pmd.services.common.serve import DRAIN_S
from pmd.services.common.strict import Strict
from pmd.services.common.waiting import away
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier.admission import Admission, Refused
from pmd.services.verifier.grading import Grader, Submission
from pmd.services.verifier.kinds import SpecError, kinds
from pmd.services.verifier.metrics import PENDING
from pmd.services.verifier.metrics import VERDICTS as VERDICT_COUNT
from pmd.services.verifier.reverify import Grade, ReverifyRequest, ReverifyResult, reverify
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.sandbox.tier import SandboxUnavailable, Tier, open_sandbox
from pmd.services.verifier.scores import split_scores
from pmd.services.verifier.settings import VerifierSettings

T = TypeVar("T")

PR_SET_DUMPABLE = 4
GRACE_S = DRAIN_S - 2
"""Seconds that requests under way have when the service stops; uvicorn cuts them off a little later."""
LOOK_S = 0.25
"""How often a waiting request looks whether the service still runs."""


class VerifyItem(Strict):
    """A completion and the spec that judges it."""

    verifier: dict[str, Any]
    """A problem's verifier spec: `kind` (code, choice, exact, regex, math, json_schema, python, or an installed one)
    and what that kind needs."""
    completion: str


class VerifyBatch(Strict):
    """Completions to judge now."""

    items: list[VerifyItem] = Field(min_length=1, max_length=4096)


class VerifyBatchResult(Strict):
    verdicts: list[Verdict]
    """In the order of the items."""


class SpecBatch(Strict):
    """Verifier specs to check."""

    specs: list[dict[str, Any]] = Field(min_length=1, max_length=4096)


class SpecField(Strict):
    """What is wrong with a spec."""

    field: str
    """Dotted key; empty when it is several keys together."""
    message: str


class RefusedSpec(Strict):
    """A spec that nothing can be judged by."""

    index: int
    """Its place among `specs`."""
    errors: list[SpecField]


class SpecBatchResult(Strict):
    refused: list[RefusedSpec]


class Verifier:
    """The running service: its sandbox, what grades with it, and the job that it does."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.sandbox: tuple[Pool, Tier, Grader] | None = None

    def start(self, settings: VerifierSettings) -> None:
        """Load the kinds, open the sandbox.

        Raises:
            KindError: an installed package offers a kind that can't be used.
            SandboxUnavailable: this machine can't isolate programs, or a package is not installed.
        """
        kinds()
        # Programs run as our user where there is no other: our memory and /proc entries are not theirs to read.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        pool, tier = open_sandbox(
            settings.workers(),
            memory_mb=settings.sandbox_memory_mb,
            libraries=settings.sandbox_libraries,
            insecure=settings.sandbox_insecure,
        )
        graders = None
        if settings.sandbox_grader_libraries:
            try:
                graders, _ = open_sandbox(
                    settings.workers(),
                    memory_mb=pool.memory,
                    libraries=(*settings.sandbox_libraries, *settings.sandbox_grader_libraries),
                    insecure=settings.sandbox_insecure,
                )
            except SandboxUnavailable:
                pool.close()
                raise
        self.sandbox = pool, tier, Grader(pool, tier, graders)

    def stop(self) -> None:
        """End every zygote and child."""
        if self.sandbox is not None:
            pool, _, grader = self.sandbox
            self.sandbox = None
            pool.close()
            grader.close()

    def facts(self) -> dict[str, Any]:
        """What `/readyz` reports."""
        if self.sandbox is None:
            raise NotReady("the sandbox is not open")
        if self.admission.draining:
            raise NotReady("the verifier is stopping")
        pool, tier, _ = self.sandbox
        return {
            "sandbox_tier": tier.name,
            "sandbox": asdict(tier),
            "workers": pool.workers,
            "memory_mb": pool.memory.total_mb,
            "kinds": list(kinds()),
        }

    def grade(
        self, submissions: list[Submission], check: Callable[[], None] = lambda: None, *, spare: bool = False
    ) -> list[Verdict]:
        """Verdicts of `submissions`; see `Grader.grade`."""
        if self.sandbox is None:
            raise NotReady("the sandbox is not open")
        with _counted(len(submissions)):
            verdicts = self.sandbox[2].grade(submissions, check, spare=spare)
        for submission, verdict in zip(submissions, verdicts, strict=True):
            kind = submission.verifier.get("kind")
            known = isinstance(kind, str) and kind in kinds()
            VERDICT_COUNT.labels(kind if known else "unknown", verdict.outcome).inc()
        return verdicts

    async def answer(self, work: Callable[[Grade], T], request: Request) -> T:
        """What `work` makes of a way to grade, as long as the client waits for it and the service runs.

        Raises:
            NotReady: the service stops, or the client went away.
            Exception: what `work` raises.
        """
        abandoned = threading.Event()

        def check() -> None:
            if abandoned.is_set():
                raise NotReady("nobody waits for these verdicts any more")

        done = asyncio.ensure_future(run_in_threadpool(work, lambda submissions: self.grade(submissions, check)))
        gone = asyncio.ensure_future(request.receive())  # the body has been read: what comes is the end of the client
        try:
            while not done.done():
                await asyncio.wait({done, gone}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if self.admission.overdue:
                    raise NotReady("the verifier is stopping; send the request again")
                if gone.done() and not done.done():
                    raise NotReady("the client went away")
        except BaseException:
            abandoned.set()
            done.add_done_callback(lambda end: end.exception())  # noted: nobody else asks for it
            raise
        finally:
            gone.cancel()
        return done.result()

    def refusals(self, specs: list[dict[str, Any]]) -> list[RefusedSpec]:
        """Those of `specs` that nothing can be judged by here."""
        if self.sandbox is None:
            raise NotReady("the sandbox is not open")
        return [
            RefusedSpec(index=index, errors=[SpecField(**field) for field in error.fields])
            for index, error in sorted(self.sandbox[2].refusals(specs).items())
        ]

    def verify_job(self, request: VerifyRequest, job: JobContext) -> VerifyResult:
        """Judge every rollout of an artifact and write the verdicts as another."""
        problems = read_problems(request.problems)
        rollouts = read_table(request.rollouts)
        unknown = sorted({row["problem_id"] for row in rollouts} - problems.keys())
        if unknown:
            raise ValueError(f"rollouts of problems that the problems artifact does not hold: {', '.join(unknown[:5])}")
        submissions = [Submission(problems[row["problem_id"]].verifier, row["text"]) for row in rollouts]
        try:
            # Not again when it is the disk that there is no room on for them.
            verdicts = job.once("verdicts", lambda: self.grade(submissions, job.check, spare=True))
        except Exception:
            job.check()  # whatever goes wrong because the service stops is a cancelled job, not a failed one
            raise
        rows = [
            {
                "rollout_id": rollout["rollout_id"],
                "problem_id": rollout["problem_id"],
                "split": rollout["split"],
                **verdict.model_dump(mode="json"),
            }
            for rollout, verdict in zip(rollouts, verdicts, strict=True)
        ]
        return VerifyResult(
            verdicts=write_table(request.out, rows, VERDICTS),
            outcomes=dict(Counter(verdict.outcome for verdict in verdicts)),
            splits=split_scores(
                (row["split"], row["problem_id"], Outcome(row["outcome"]), float(row["reward"])) for row in rows
            ),
        )


def _job_kinds(verifier: Verifier) -> dict[str, JobKind[Any]]:
    def again(request: ReverifyRequest, job: JobContext) -> ReverifyResult:
        def grade(submissions: list[Submission]) -> list[Verdict]:
            return job.once("verdicts", lambda: verifier.grade(submissions, job.check))

        return reverify(request, grade)

    return {"verify": JobKind(VerifyRequest, verifier.verify_job), "reverify": JobKind(ReverifyRequest, again)}


def _bad_specs(error: SpecError) -> HTTPException:
    fields = [{**field, "field": f"items.{field['field']}"} for field in error.fields]
    return HTTPException(422, fields)


def create_app(settings: VerifierSettings) -> FastAPI:
    """The verifier's application. The sandbox opens when it starts and closes when it stops.

    Raises (at start):
        SandboxUnavailable: this machine can't isolate programs and `sandbox_insecure` is not set.
    """
    most = settings.max_pending_mb << 20
    verifier = Verifier(Admission(max(most, settings.max_request_mb << 20), grace_s=GRACE_S))
    store = JobStore(settings.service_dir("verifier") / "jobs.sqlite")
    jobs = JobRunner("verifier", store, _job_kinds(verifier))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        verifier.start(settings)
        jobs.recover()
        try:
            with _noticing_termination(verifier.admission.drain):
                yield
        finally:
            verifier.admission.drain()
            jobs.close()
            verifier.stop()

    app = create_service(
        "verifier", settings, ready=verifier.facts, lifespan=lifespan, max_json_bytes=settings.max_request_mb << 20
    )
    app.include_router(jobs.router())

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method not in ("POST", "PUT"):
            return await call_next(request)
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            return problem(411, "send a Content-Length")
        if int(length) > settings.max_request_mb << 20:
            return problem(413, f"the body is over {settings.max_request_mb} MB; send a job with a reference")
        try:
            with verifier.admission.let_in(int(length)):
                return await call_next(request)
        except Refused as refused:
            response = problem(refused.status, str(refused))
            response.headers["Retry-After"] = str(refused.retry_after_s)
            return response

    app.include_router(_judging_routes(verifier))
    return app


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no token, or a wrong one"},
    411: {"description": "no Content-Length"},
    413: {"description": "the body is too large"},
    422: {"description": "a spec or an artifact is not valid; `errors` names the field"},
    429: {"description": "too much is under way; see Retry-After"},
    503: {"description": "the sandbox is not open, or the service stops"},
}


def _judging_routes(verifier: Verifier) -> APIRouter:
    routes = APIRouter(dependencies=[Depends(known_query)])

    @routes.post("/v1/verify", tags=["verify"], responses=REFUSALS)
    async def verify(batch: VerifyBatch, request: Request) -> VerifyBatchResult:
        """Judge completions now. Equal programs of an equal spec are run once."""
        submissions = [Submission(item.verifier, item.completion) for item in batch.items]
        try:
            verdicts = await verifier.answer(lambda grade: grade(submissions), request)
        except SpecError as error:
            raise _bad_specs(error) from error
        except NotReady as error:
            raise HTTPException(503, str(error)) from error
        return VerifyBatchResult(verdicts=verdicts)

    @routes.post("/v1/specs:validate", tags=["verify"], responses=REFUSALS)
    def validate_specs(batch: SpecBatch) -> SpecBatchResult:
        """Check specs: those that `/v1/verify` would refuse, whose function can't be loaded, or whose own `solution`
        (a completion that must pass) does not; and why."""
        try:
            return SpecBatchResult(refused=verifier.refusals(batch.specs))
        except NotReady as error:
            raise HTTPException(503, str(error)) from error

    @routes.post("/v1/reverify", tags=["verify"], responses=REFUSALS)
    async def judge_again(what: ReverifyRequest, request: Request) -> ReverifyResult:
        """Judge past completions by specs of today and say what changes. For many, submit it as a job `reverify`."""
        try:
            return await verifier.answer(lambda grade: reverify(what, grade), request)
        except SpecError as error:
            raise _bad_specs(error) from error
        except NotReady as error:
            raise HTTPException(503, str(error)) from error
        except (ArtifactError, ValueError, OSError) as error:
            if away(error) is not None:
                raise
            raise HTTPException(422, str(error)) from error

    return routes


@contextlib.contextmanager
def _counted(items: int) -> Iterator[None]:
    """Count completions that wait for a verdict."""
    PENDING.inc(items)
    try:
        yield
    finally:
        PENDING.dec(items)


@contextlib.contextmanager
def _noticing_termination(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM and SIGINT, before whoever else handles them: uvicorn says nothing until all is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a test's client: its thread gets no signals
        return
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        act()
        before[number](number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler):  # without one the signal ends the process at once, as it should
            before[number] = handler
            signal.signal(number, handle)
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
