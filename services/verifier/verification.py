"""Verifying a batch: every different answer once, programs side by side.

Invariants:
- Verdicts come back in the order of the submissions.
- Equal answers to an equal spec are verified once: rollouts of one problem often hold the same program, and a program
  in the sandbox does the same again, unless it asks the clock. Reasoning around the program does not matter.
- What ran in the sandbox and passed or failed is remembered over batches: a policy that has learnt something writes
  the same programs step after step. A limit or trouble of ours may depend on the machine, so it is verified again.
- A kind that raises spoils the verdict it was asked for, as `infra_error`, and no other. So does a wrong spec where a
  batch holds right ones too and is asked to `spare` them.
- A sandbox that does not start verifies nothing: the batch ends with `Away`, and whoever asked for it waits.
- Batches share the workers: a short one is not kept waiting until a long one is through.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pmd.services.common.allowed import Allowed
from pmd.services.common.strict import Strict
from pmd.services.common.waiting import away
from pmd.services.common.wire import Outcome, Verdict
from pmd.services.verifier.context import Context
from pmd.services.verifier.endpoints import Endpoints
from pmd.services.verifier.infra import infra_error
from pmd.services.verifier.kinds import SOLUTION, SpecError, parse_spec
from pmd.services.verifier.kinds.kind import Kind
from pmd.services.verifier.library import GYM, Library
from pmd.services.verifier.limits import RunLimits
from pmd.services.verifier.sandbox.job import SandboxAway, SandboxError
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.sandbox.tier import Tier

log = logging.getLogger(__name__)

AHEAD = 2
"""Completions of one batch that stand in line at a time, per worker."""
MAX_JUDGES = 4
"""Judges at the same time: each of their zygotes holds sympy, about 100 MB."""

REMEMBERED = 1 << 12
"""Verdicts that are remembered, those of least recent use forgotten first: what some steps of a run ask for."""

Pair = tuple[str, str | None]
"""A spec as JSON, and an answer to it."""


@dataclass(frozen=True)
class Submission:
    """A completion and the spec that judges it."""

    verifier: Mapping[str, Any]
    completion: str


class _Known:
    """Verdicts that the sandbox has given; thread-safe."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def _key(pair: Pair) -> bytes:
        # A hash: the tests of a spec may be megabytes. No JSON holds a raw zero byte, so pairs can't be confused.
        return hashlib.sha256("{}\0{!r}".format(*pair).encode()).digest()

    def get(self, pair: Pair) -> Verdict | None:
        with self._lock:
            key = self._key(pair)
            if key in self._verdicts:
                self._verdicts.move_to_end(key)
            return self._verdicts.get(key)

    def clear(self) -> None:
        with self._lock:
            self._verdicts.clear()

    def add(self, pair: Pair, verdict: Verdict) -> None:
        if not verdict.sandbox_tier or verdict.outcome not in {Outcome.PASSED, Outcome.FAILED}:
            return
        with self._lock:
            self._verdicts[self._key(pair)] = verdict
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)


class BatchVerifier:
    """Grades batches on as many threads as the sandbox has workers; thread-safe."""

    def __init__(self, pool: Pool, tier: Tier, scorers: Pool | None = None, endpoints: Endpoints | None = None) -> None:
        """Args:
        scorers: runs the functions of specs, where they may import more than programs.
        endpoints: what completions may be sent to; none unless given.
        """
        judges = min(pool.workers, MAX_JUDGES)
        library = Library(judges, memory=pool.memory, insecure=bool(tier.escaped))
        gym = Library(judges, memory=pool.memory, insecure=bool(tier.escaped), module=GYM)
        elsewhere = endpoints or Endpoints(Allowed(), {})
        self._context = Context(pool, scorers or pool, library, gym, elsewhere, tier.name, lambda: None)
        self._threads = ThreadPoolExecutor(pool.workers, thread_name_prefix="verify")
        self._known = _Known()

    def close(self) -> None:
        """Take no more work. Close the sandbox first: what is under way then ends at once."""
        if self._context.scorers is not self._context.pool:
            self._context.scorers.close()
        self._context.library.close()
        self._context.gym.close()
        self._context.endpoints.close()
        self._threads.shutdown()

    def refusals(self, specs: Sequence[Mapping[str, Any]]) -> dict[int, SpecError]:
        """Specs that nothing can be judged by here, by their index, and why: not valid, of no use when tried, or such
        that their own `solution` does not pass. Trouble of ours refuses nothing."""
        refused: dict[int, SpecError] = {}
        tried: dict[str, Future[SpecError | None]] = {}
        waiting: list[tuple[int, str]] = []
        for index, raw in enumerate(specs):
            try:
                kind, spec = _parse(raw, self._context.pool.memory.total_mb)
            except SpecError as error:
                refused[index] = error
                continue
            solution = raw.get(SOLUTION)
            if kind.prove is not None or solution is not None:
                key = json.dumps(raw, sort_keys=True)
                waiting.append((index, key))
                if key not in tried:
                    tried[key] = self._threads.submit(_try, kind, spec, solution, self._context)
        for index, key in waiting:
            if (wrong := tried[key].result()) is not None:
                refused[index] = wrong
        return refused

    def verify(
        self, submissions: Sequence[Submission], check: Callable[[], None] = lambda: None, *, spare: bool = False
    ) -> list[Verdict]:
        """Verdicts of `submissions`, in their order.

        Args:
            check: called between units of work; what it raises ends the batch.
            spare: a spec that is not valid is an `infra_error` of its submissions, unless all are not.

        Raises:
            SpecError: a spec is not valid; its fields start with the submission's index.
        """
        context = replace(self._context, check=check)
        specs: dict[str, tuple[Kind[Any], Strict]] = {}
        wrong: dict[str, SpecError] = {}
        different: dict[Pair, str] = {}
        """A completion that holds each answer."""
        pairs: list[Pair] = []
        for index, submission in enumerate(submissions):
            key = json.dumps(submission.verifier, sort_keys=True)
            if key not in specs and key not in wrong:
                try:
                    specs[key] = _parse(submission.verifier, context.pool.memory.total_mb)
                except SpecError as error:
                    wrong[key] = error.below(f"{index}.verifier")
                    if not spare:
                        raise wrong[key] from error
            pairs.append((key, _answer(*specs[key], submission.completion) if key in specs else None))
            different.setdefault(pairs[-1], submission.completion)
        if wrong and not specs:
            raise next(iter(wrong.values()))
        known = {pair: verdict for pair in different if (verdict := self._known.get(pair)) is not None}
        known |= {(key, None): infra_error(f"the problem's spec is not valid: {error}") for key, error in wrong.items()}
        judged: dict[Pair, Future[Verdict]] = {}
        waiting: deque[Future[Verdict]] = deque()
        try:
            for pair, completion in different.items():
                if pair in known:
                    continue
                if len(waiting) == AHEAD * context.pool.workers:
                    waiting.popleft().result()
                judged[pair] = self._threads.submit(_verified, *specs[pair[0]], completion, context)
                waiting.append(judged[pair])
            for pair, future in judged.items():
                known[pair] = future.result()
                self._known.add(pair, known[pair])
            return [known[pair] for pair in pairs]
        except BaseException:
            for future in judged.values():
                future.cancel()
            raise


def _answer(kind: Kind[Any], spec: Strict, completion: str) -> str | None:
    try:
        return kind.answer(spec, completion)
    except Exception:  # `verify` will meet it too, and reports it
        log.exception("a kind could not find the answer of a completion")
        return completion


def _verified(kind: Kind[Any], spec: Strict, completion: str, context: Context) -> Verdict:
    try:
        return kind.verify(spec, completion, context)
    except SandboxAway:
        raise
    except SandboxError as error:
        context.check()  # a sandbox that closes because the service stops is no verdict at all
        return infra_error(str(error), sandbox_tier=context.tier)
    except Exception as error:
        context.check()  # cancelled work has no verdict
        if (lacking := away(error)) is not None:  # nothing was judged, and nothing is wrong with answer or spec
            raise lacking from error
        log.exception("a kind failed to judge a completion")
        return infra_error(f"{type(error).__name__}: {error}")


def _try(kind: Kind[Any], spec: Strict, solution: str | None, context: Context) -> SpecError | None:
    """What trying a valid spec shows to be wrong with it."""
    try:
        if kind.prove is not None and (wrong := kind.prove(spec, context)) is not None:
            return SpecError([{"field": "", "message": wrong}])
        if solution is None:
            return None
        verdict = kind.verify(spec, solution, context)
    except Exception:
        log.exception("a spec could not be tried")
        return None
    if verdict.outcome is Outcome.PASSED:
        return None
    said = f"the solution does not pass: {verdict.outcome}. {verdict.error or verdict.feedback}".rstrip(". ")
    return SpecError([{"field": SOLUTION, "message": said}])


def _parse(verifier: Mapping[str, Any], memory_mb: int) -> tuple[Kind[Any], Strict]:
    kind, spec = parse_spec(verifier)
    limits = getattr(spec, "limits", None)
    if isinstance(limits, RunLimits) and limits.memory_mb > memory_mb:
        message = f"this verifier gives all programs {memory_mb} MB together (PMD_SANDBOX_MEMORY_MB)"
        raise SpecError([{"field": "limits.memory_mb", "message": message}])
    return kind, spec
