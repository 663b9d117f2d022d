"""What goes into a sandboxed child and what comes out of it.

Invariant: a `Job` has no place for an expected output (Law 4).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from enum import StrEnum

from pmd.services.common.waiting import Away


class SandboxError(RuntimeError):
    """The sandbox failed, not the program that ran in it."""


class SandboxAway(SandboxError, Away):
    """No process of the sandbox starts here now: nothing was run, and what there is to run waits."""


SLACK_S = 0.5
"""Wall seconds beyond its total that a program may have, for the delays of a busy machine; they count all the same."""
LEAST_S = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """What one test may use."""

    cpu_s: float
    memory_mb: int
    """Address space that the program may take, beyond what the interpreter and the libraries had at its start."""
    output_kb: int
    """Of the output that is judged and of the result, each. Other output is cut there; see `DIAGNOSTICS`."""
    left_s: float = math.inf
    """Seconds left of what the program may use on all its tests."""

    @property
    def wall_s(self) -> float:
        """Seconds of its own waiting after which a child that doesn't use its CPU time is ended."""
        return min(max(3 * self.cpu_s, self.cpu_s + 2), max(self.left_s + SLACK_S, LEAST_S))

    def within(self, left_s: float) -> Limits:
        """These limits for a program that has `left_s` seconds left of what all its tests may use; 0 ends it."""
        return replace(self, cpu_s=min(self.cpu_s, max(left_s, LEAST_S)), left_s=left_s)

    def for_output(self, expected_bytes: int) -> Limits:
        """These limits for a test whose expected output is so long: what is right is not too much."""
        return replace(self, output_kb=self.output_kb + (2 * expected_bytes >> 10))


@dataclass(frozen=True, slots=True)
class Job:
    """One program on one input."""

    source: str
    fn_name: str | None
    input: str
    limits: Limits
    prelude: bool = False
    """Give the program the names that LiveCodeBench imports for it (`harness.PRELUDE`)."""
    setup: str = ""
    """Python that runs before the program, in its module."""
    values: bool = False
    """The input is `[arguments, named arguments]` in the JSON of `pmd.services.common.values`, and the result is
    `{"returned": .., "after": ..}`: the function's, and the arguments as the call left them."""

    def encode(self) -> bytes:
        """The bytes of the child's descriptor 0."""
        names = ("source", "fn_name", "prelude", "setup", "values")
        header = json.dumps({name: getattr(self, name) for name in names}).encode()
        return len(header).to_bytes(4, "big") + header + self.input.encode("utf-8", "surrogatepass")


DIAGNOSTICS = 16
"""Stderr, and what a called function prints, decide nothing, so an honest program is not ended for them; for a flood it
is: at so many times `output_kb`."""

OUR_DELAY_S = 0.1
"""Waiting per test that is not counted: this service may have added so much itself."""


class End(StrEnum):
    """How a child ended."""

    EXIT = "exit"
    SIGNAL = "signal"
    CPU = "cpu"
    WALL = "wall"
    STARVED = "starved"
    OUTPUT = "output"
    THREADS = "threads"
    """Too many at once: each takes kernel memory that no limit counts."""
    MEMORY = "memory"
    """It could take no more, and could not even say so."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What is known of a child after its end. All bytes are the program's to forge."""

    end: End
    code: int
    """Exit status, or the signal's number."""
    stdout: bytes
    stderr: bytes
    report: bytes
    spoke: bool
    """The harness had the last word: the program ended by itself, from inside the interpreter."""
    loading: bool
    """It ended before the function was called that it defines."""
    cpu_s: float
    wall_s: float
    max_rss_kb: int
    queued_s: float = 0.0
    """Part of `wall_s` in which the machine ran something else."""
    own_s: float = 0.0
    """Part of `wall_s` that was the program's own doing: it ran, or waited for nothing of ours."""

    @property
    def spent_s(self) -> float:
        """Seconds that count towards a program's total: of CPU, or of waiting where that was its own doing."""
        return max(self.cpu_s, self.own_s - OUR_DELAY_S)
