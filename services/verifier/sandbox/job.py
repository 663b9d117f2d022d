"""What goes into a sandboxed child and what comes out of it.

Invariant: a `Job` has no place for an expected output (Law 4).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class SandboxError(RuntimeError):
    """The sandbox failed, not the program that ran in it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one test may use."""

    cpu_s: float
    memory_mb: int
    """Address space, interpreter included (about 60 MB)."""
    output_kb: int
    """Of stdout, stderr and the result, each."""

    @property
    def wall_s(self) -> float:
        """Wall seconds after which a child that doesn't use its CPU time is ended."""
        return max(3 * self.cpu_s, self.cpu_s + 2)


@dataclass(frozen=True, slots=True)
class Job:
    """One program on one input."""

    source: str
    fn_name: str | None
    input: str
    limits: Limits
    prelude: bool = False
    """Give the program the names that LiveCodeBench imports for it (`harness.PRELUDE`)."""

    def encode(self) -> bytes:
        """The bytes of the child's descriptor 0."""
        header = json.dumps({"source": self.source, "fn_name": self.fn_name, "prelude": self.prelude}).encode()
        return len(header).to_bytes(4, "big") + header + self.input.encode("utf-8", "surrogatepass")


class End(StrEnum):
    """How a child ended."""

    EXIT = "exit"
    SIGNAL = "signal"
    CPU = "cpu"
    WALL = "wall"
    STARVED = "starved"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Execution:
    """What is known of a child after its end. All bytes are the program's to forge."""

    end: End
    code: int
    """Exit status, or the signal's number."""
    stdout: bytes
    stderr: bytes
    report: bytes
    cpu_s: float
    wall_s: float
    max_rss_kb: int
