"""What is shared is shared fairly: workers between batches, memory between programs and judges."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pmd.services.verifier.library import Library
from pmd.services.verifier.sandbox.job import Job, Limits, SandboxError
from pmd.services.verifier.sandbox.memory import Memory
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.verification import Submission
from tests.verifier.conftest import SOLVE_SPEC, Sandbox, fenced


def sleepy(number: int) -> Submission:
    spec = {**SOLVE_SPEC, "tests": SOLVE_SPEC["tests"][:1]}
    return Submission(spec, fenced(f"import time\ntime.sleep(0.05)\ndef solve(a): return [min(a), max(a)]  # {number}"))


def test_a_short_batch_does_not_wait_for_a_long_one(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(1) as threads:
        long = threads.submit(sandbox.verifier.verify, [sleepy(n) for n in range(80)])
        time.sleep(0.3)
        assert [v.outcome for v in sandbox.verifier.verify([sleepy(1000)])] == ["passed"]
        assert not long.done()
        assert [v.outcome for v in long.result()] == ["passed"] * 80


def test_pools_share_an_account_of_memory() -> None:
    account = Memory(512)
    first, second = Pool(1, memory_mb=account), Pool(1, memory_mb=account)
    hog = Job("import time\ntime.sleep(0.3)", None, "", Limits(1, 300, 64))
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(2) as threads:
            ends = [execution.result().end for execution in (threads.submit(p.run, hog) for p in (first, second))]
        assert ends == ["exit", "exit"]
        assert time.monotonic() - began > 0.6, "one after the other"
    finally:
        first.close()
        second.close()


def test_judges_take_their_memory_from_the_account_of_programs(sandbox: Sandbox) -> None:
    account = Memory(600)
    library = Library(1, memory=account, insecure=False)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with account.reserve(600):
            held.set()
            let_go.wait(60)

    try:
        with ThreadPoolExecutor(2) as threads:
            threads.submit(hold)
            held.wait()
            judged = threads.submit(library.run, "schema_worker", {"type": "integer"}, 1, cpu_s=5.0)
            with pytest.raises(TimeoutError):
                judged.result(1.0)
            let_go.set()
            assert judged.result().report == b'{"value": []}'
    finally:
        let_go.set()
        library.close()


def test_what_never_fits_is_refused() -> None:
    with pytest.raises(SandboxError, match="300 MB of 200 MB"), Memory(200).reserve(300):
        pass
