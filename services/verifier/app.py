"""The verifier's HTTP face: `POST /v1/verify` for a few completions now, job `verify` for an artifact of rollouts.

Invariants:
- The service does not start where it can't isolate programs, unless its settings say so.
- When it stops, every zygote and child stops with it; jobs under way stay without an end and run again.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import Counter as Metric
from pydantic import Field

from services.common.app import NotReady, create_service, problem
from services.common.artifacts import ArtifactError, read_problems, read_table, write_table
from services.common.jobs import JobContext, JobKind, JobRunner, JobStore
from services.common.strict import Strict
from services.common.wire import VERDICTS, Outcome, Verdict, VerifyRequest, VerifyResult
from services.verifier.grading import Grader, Submission
from services.verifier.kinds import SpecError, kinds
from services.verifier.reverify import ReverifyRequest, ReverifyResult, reverify
from services.verifier.sandbox.pool import Pool
from services.verifier.sandbox.tier import Tier, open_sandbox
from services.verifier.scores import split_scores
from services.verifier.settings import VerifierSettings

VERDICT_COUNT = Metric("pmd_verdicts_total", "Verdicts given", ["outcome"])
SANDBOX_CPU = Metric("pmd_sandbox_cpu_seconds_total", "CPU time that programs used, per verdict that it decided")

PR_SET_DUMPABLE = 4


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


class Verifier:
    """The running service: its sandbox, what grades with it, and the job that it does."""

    def __init__(self) -> None:
        self.sandbox: tuple[Pool, Tier, Grader] | None = None

    def start(self, settings: VerifierSettings) -> None:
        """Load the kinds, open the sandbox.

        Raises:
            KindError: an installed package offers a kind that can't be used.
            SandboxUnavailable: this machine can't isolate programs.
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
        self.sandbox = pool, tier, Grader(pool, tier)

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
        pool, tier, _ = self.sandbox
        return {"sandbox_tier": tier.name, "sandbox": asdict(tier), "workers": pool.workers, "kinds": list(kinds())}

    def grade(self, submissions: list[Submission], check: Callable[[], None] = lambda: None) -> list[Verdict]:
        """Verdicts of `submissions`; see `Grader.grade`."""
        if self.sandbox is None:
            raise NotReady("the sandbox is not open")
        verdicts = self.sandbox[2].grade(submissions, check)
        for outcome, count in Counter(v.outcome for v in verdicts).items():
            VERDICT_COUNT.labels(outcome).inc(count)
        SANDBOX_CPU.inc(sum(v.cpu_ms for v in verdicts) / 1e3)
        return verdicts

    def verify_job(self, request: VerifyRequest, job: JobContext) -> VerifyResult:
        """Judge every rollout of an artifact and write the verdicts as another."""
        problems = read_problems(request.problems)
        rollouts = read_table(request.rollouts)
        unknown = sorted({row["problem_id"] for row in rollouts} - problems.keys())
        if unknown:
            raise ValueError(f"rollouts of problems that the problems artifact does not hold: {', '.join(unknown[:5])}")
        submissions = [Submission(problems[row["problem_id"]].verifier, row["text"]) for row in rollouts]
        try:
            verdicts = self.grade(submissions, job.check)
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
            splits=split_scores((row["split"], row["problem_id"], Outcome(row["outcome"])) for row in rows),
        )


def _job_kinds(verifier: Verifier) -> dict[str, JobKind[Any]]:
    def again(request: ReverifyRequest, job: JobContext) -> ReverifyResult:
        return reverify(request, lambda submissions: verifier.grade(submissions, job.check))

    return {"verify": JobKind(VerifyRequest, verifier.verify_job), "reverify": JobKind(ReverifyRequest, again)}


def _bad_specs(error: SpecError) -> HTTPException:
    fields = [{**field, "field": f"items.{field['field']}"} for field in error.fields]
    return HTTPException(422, fields)


def create_app(settings: VerifierSettings) -> FastAPI:
    """The verifier's application. The sandbox opens when it starts and closes when it stops.

    Raises (at start):
        SandboxUnavailable: this machine can't isolate programs and `sandbox_insecure` is not set.
    """
    verifier = Verifier()
    store = JobStore(settings.service_dir("verifier") / "jobs.sqlite")
    jobs = JobRunner("verifier", store, _job_kinds(verifier))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        verifier.start(settings)
        jobs.recover()
        try:
            yield
        finally:
            jobs.close()
            verifier.stop()

    app = create_service("verifier", settings, ready=verifier.facts, lifespan=lifespan)
    app.include_router(jobs.router())

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method in ("POST", "PUT"):
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return problem(411, "send a Content-Length")
            if int(length) > settings.max_request_mb << 20:
                return problem(413, f"the body is over {settings.max_request_mb} MB; send a job with a reference")
        return await call_next(request)

    @app.post("/v1/verify", tags=["verify"], responses={422: {"description": "a spec is not valid"}})
    def verify(batch: VerifyBatch) -> VerifyBatchResult:
        """Judge completions now. Equal programs of an equal spec are run once."""
        try:
            verdicts = verifier.grade([Submission(item.verifier, item.completion) for item in batch.items])
        except SpecError as error:
            raise _bad_specs(error) from error
        except NotReady as error:
            raise HTTPException(503, str(error)) from error
        return VerifyBatchResult(verdicts=verdicts)

    @app.post("/v1/reverify", tags=["verify"], responses={422: {"description": "a spec or an artifact is not valid"}})
    def judge_again(request: ReverifyRequest) -> ReverifyResult:
        """Judge past completions by specs of today and say what changes. For many, submit it as a job `reverify`."""
        try:
            return reverify(request, verifier.grade)
        except SpecError as error:
            raise _bad_specs(error) from error
        except (ArtifactError, ValueError, OSError, ImportError) as error:
            raise HTTPException(422, str(error)) from error
        except NotReady as error:
            raise HTTPException(503, str(error)) from error

    return app
