"""The second sandbox: its children hold the judges and their libraries, and run them on hostile data.

Invariants:
- It opens on first use: a service that judges no mathematics never pays for sympy.
- Its children are sealed like those that run programs; they see one expected answer and one given answer, no program.
- They take their memory from the same account as programs.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from pmd.services.verifier.sandbox.job import Execution, Job, Limits, SandboxError
from pmd.services.verifier.sandbox.memory import Memory
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.sandbox.tier import open_sandbox

WARM = "pmd.services.verifier.workers.warm"
GYM = "pmd.services.verifier.workers.gym_worker"
MEMORY_MB = 1024
"""Address space that a child may take, where all programs together have so much."""
OUTPUT_KB = 64


class Library:
    """Judges by name; thread-safe."""

    def __init__(self, workers: int, *, memory: Memory, insecure: bool, module: str = WARM) -> None:
        """Args:
        module: what its zygotes import, and with it all that the judges need.
        workers: judges that run at the same time.
        memory: the account from which each takes `MEMORY_MB`.
        """
        self._workers, self._memory, self._insecure, self._module = workers, memory, insecure, module
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._closed = False

    def run(self, judge: str, *arguments: Any, cpu_s: float) -> Execution:
        """Run `pmd.services.verifier.workers.<judge>.judge(*arguments)`, all of it JSON, in a child.

        Raises:
            SandboxError: the sandbox can't be opened, or failed.
        """
        source = f"from pmd.services.verifier.workers.{judge} import judge"
        given = "\n".join(json.dumps(argument) for argument in arguments)
        limits = Limits(cpu_s, min(MEMORY_MB, self._memory.total_mb), OUTPUT_KB)
        return self._open().run(Job(source, "judge", given, limits))

    def _open(self) -> Pool:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._pool is None:
                self._pool, _ = open_sandbox(
                    self._workers,
                    memory_mb=self._memory,
                    libraries=(self._module,),
                    insecure=self._insecure,
                )
            return self._pool

    def close(self) -> None:
        """End its processes."""
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.close()
