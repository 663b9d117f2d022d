"""One real sandbox for all tests of the verifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pmd.services.common.wire import Verdict
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.sandbox.tier import Tier, open_sandbox
from pmd.services.verifier.verification import BatchVerifier, Submission

SOLVE_SPEC: dict[str, Any] = {
    "kind": "code",
    "fn_name": "solve",
    "tests": [
        {"input": "[30, 10, 40, 20]", "output": "[10, 40]"},
        {"input": "[5]", "output": "[5, 5]"},
        {"input": "[3, 1, 4, 2]", "output": "[1, 4]"},
    ],
    "limits": {"cpu_s": 0.5},
    "feedback": {"expected": True},
}
RIGHT = "def solve(a):\n    return [min(a), max(a)]"


def fenced(program: str) -> str:
    """A completion that answers with `program`."""
    return f"Plan: min and max.\n```python\n{program}\n```\n"


class Sandbox:
    """The sandbox under test and the shortest way to a verdict."""

    def __init__(self, pool: Pool, tier: Tier) -> None:
        self.pool, self.tier, self._verifier = pool, tier, BatchVerifier(pool, tier)

    @property
    def verifier(self) -> BatchVerifier:
        """What verifies, with no memory of earlier verdicts: a test that asks twice runs the program twice."""
        self._verifier._known.clear()
        return self._verifier

    def judge(self, program: str, spec: dict[str, Any] = SOLVE_SPEC) -> Verdict:
        return self.verifier.verify([Submission(spec, fenced(program))])[0]


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    pool, tier = open_sandbox(2, memory_mb=2048, libraries=("numpy",), insecure=False)
    box = Sandbox(pool, tier)
    yield box
    pool.close()
    box.verifier.close()
