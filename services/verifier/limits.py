"""Limits of sandboxed code, as a spec gives them."""

from __future__ import annotations

from pydantic import Field

from pmd.services.common.strict import Strict
from pmd.services.verifier.sandbox.job import Limits


class RunLimits(Strict):
    """What a program may use on each test, or a function of the user's on each completion."""

    cpu_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """CPU seconds. The wall limit is max(3 cpu_s, cpu_s + 2)."""
    memory_mb: int = Field(default=512, ge=128, le=8192)
    """Address space beyond what the interpreter and the imported libraries take."""
    output_kb: int = Field(default=1024, ge=1, le=16384)
    """Of stdout and of the result, each, beyond twice what a test expects; stderr is cut there."""

    def limits(self) -> Limits:
        """The same, as the sandbox takes it."""
        return Limits(self.cpu_s, self.memory_mb, self.output_kb)
