"""The running verifier: its sandbox, what verifies with it, and the jobs that it does.

Invariants:
- It does not start where it can't isolate programs, unless its settings say so.
- When it stops, a request under way gets its verdicts within `Admission`'s grace, or `NotReady`; every zygote and
  child ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from pmd.services.common.app import NotReady
from pmd.services.common.artifacts import read_problems, read_table, write_table
from pmd.services.common.columns import VERDICTS
from pmd.services.common.jobs import JobContext, JobKind
from pmd.services.common.requests import VerifyRequest, VerifyResult
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier.admission import Admission
from pmd.services.verifier.kinds import kinds
from pmd.services.verifier.metrics import PENDING
from pmd.services.verifier.metrics import VERDICTS as VERDICT_COUNT
from pmd.services.verifier.reverify import ReverifyRequest, ReverifyResult, Verify, reverify
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.sandbox.tier import SandboxUnavailable, Tier, open_sandbox
from pmd.services.verifier.scores import split_scores
from pmd.services.verifier.settings import VerifierSettings
from pmd.services.verifier.verification import BatchVerifier, Submission

T = TypeVar("T")

PR_SET_DUMPABLE = 4
LOOK_S = 0.25
"""How often a waiting request looks whether the service still runs."""


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


class Verifier:
    """The running service: its sandbox, what verifies with it, and the job that it does."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.sandbox: tuple[Pool, Tier, BatchVerifier] | None = None

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
        scorers = None
        if settings.sandbox_grader_libraries:
            try:
                scorers, _ = open_sandbox(
                    settings.workers(),
                    memory_mb=pool.memory,
                    libraries=(*settings.sandbox_libraries, *settings.sandbox_grader_libraries),
                    insecure=settings.sandbox_insecure,
                )
            except SandboxUnavailable:
                pool.close()
                raise
        self.sandbox = pool, tier, BatchVerifier(pool, tier, scorers, settings.endpoints())

    def stop(self) -> None:
        """End every zygote and child."""
        if self.sandbox is not None:
            pool, _, batches = self.sandbox
            self.sandbox = None
            pool.close()
            batches.close()

    def details(self) -> dict[str, Any]:
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

    def verify(
        self, submissions: list[Submission], check: Callable[[], None] = lambda: None, *, spare: bool = False
    ) -> list[Verdict]:
        """Verdicts of `submissions`; see `BatchVerifier.verify`."""
        if self.sandbox is None:
            raise NotReady("the sandbox is not open")
        with _counted(len(submissions)):
            verdicts = self.sandbox[2].verify(submissions, check, spare=spare)
        for submission, verdict in zip(submissions, verdicts, strict=True):
            kind = submission.verifier.get("kind")
            known = isinstance(kind, str) and kind in kinds()
            VERDICT_COUNT.labels(kind if known else "unknown", verdict.outcome).inc()
        return verdicts

    async def answer(self, work: Callable[[Verify], T], request: Request) -> T:
        """What `work` makes of a way to verify, as long as the client waits for it and the service runs.

        Raises:
            NotReady: the service stops, or the client went away.
            Exception: what `work` raises.
        """
        abandoned = threading.Event()

        def check() -> None:
            if abandoned.is_set():
                raise NotReady("nobody waits for these verdicts any more")

        done = asyncio.ensure_future(run_in_threadpool(work, lambda submissions: self.verify(submissions, check)))
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
        rollouts = read_table(request.rollouts)
        problems = read_problems(request.problems, {row["problem_id"] for row in rollouts})
        unknown = sorted({row["problem_id"] for row in rollouts} - problems.keys())
        if unknown:
            raise ValueError(f"rollouts of problems that the problems artifact does not hold: {', '.join(unknown[:5])}")
        submissions = [Submission(problems[row["problem_id"]].verifier, row["text"]) for row in rollouts]
        try:
            # Not again when it is the disk that there is no room on for them.
            verdicts = job.once("verdicts", lambda: self.verify(submissions, job.check, spare=True))
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


def job_kinds(verifier: Verifier) -> dict[str, JobKind[Any]]:
    """The jobs of this service."""

    def again(request: ReverifyRequest, job: JobContext) -> ReverifyResult:
        def verify(submissions: list[Submission]) -> list[Verdict]:
            return job.once("verdicts", lambda: verifier.verify(submissions, job.check))

        return reverify(request, verify)

    return {"verify": JobKind(VerifyRequest, verifier.verify_job), "reverify": JobKind(ReverifyRequest, again)}


@contextlib.contextmanager
def _counted(items: int) -> Iterator[None]:
    """Count completions that wait for a verdict."""
    PENDING.inc(items)
    try:
        yield
    finally:
        PENDING.dec(items)
