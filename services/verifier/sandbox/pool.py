"""The pool: zygotes shared by threads. One child at a time each, memory admitted before a child starts.

Invariants:
- Trouble of ours (a dead zygote, a failed fork, an unknown kill, a machine too busy) raises `SandboxError`, after one
  retry on another zygote; a program can't cause it.
- A program starts only when its memory is given to it (`Memory`).
- A zygote that gave trouble, or whose child crashed, is replaced.
- `close`, or the death of this process, ends every zygote and child.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time

from pmd.services.verifier.metrics import CPU_SECONDS, RESTARTS, RUN_SECONDS, RUNNING, TROUBLE, WAIT_SECONDS
from pmd.services.verifier.sandbox.client import Zygote
from pmd.services.verifier.sandbox.job import End, Execution, Job, SandboxError
from pmd.services.verifier.sandbox.memory import Memory
from pmd.services.verifier.sandbox.watch import supervise

RECYCLE_AFTER = 5000
"""Children per zygote: all share its address layout, so it is not kept for ever."""


class Pool:
    """Zygotes for `workers` concurrent jobs; thread-safe."""

    def __init__(
        self,
        workers: int,
        *,
        memory_mb: int | Memory,
        libraries: tuple[str, ...] = (),
        wrapped: bool = False,
        insecure: bool = False,
    ) -> None:
        """Start the zygotes.

        Args:
            memory_mb: what all running children may take together; more have to wait for each other. Or the account
                that this pool shares with others.
            libraries: installed packages that programs may import besides the standard library.
            wrapped: put each zygote into a container of bubblewrap.

        Raises:
            SandboxError: a zygote could not start.
        """
        self._libraries, self._wrapped, self._insecure = libraries, wrapped, insecure
        self.memory = memory_mb if isinstance(memory_mb, Memory) else Memory(memory_mb)
        self._idle: queue.LifoQueue[Zygote | None] = queue.LifoQueue()
        self._closed = False
        self._all: set[Zygote] = set()
        self._lock = threading.Lock()
        self.workers = workers
        try:
            for _ in range(workers):
                self._idle.put(self._start())
        except SandboxError:
            self.close()
            raise
        self.facts = next(iter(self._all)).facts

    def _start(self) -> Zygote:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            zygote = Zygote(self._libraries, wrapped=self._wrapped, insecure=self._insecure)
            self._all.add(zygote)
            return zygote

    def _drop(self, zygote: Zygote) -> None:
        with self._lock:
            self._all.discard(zygote)
        zygote.close()

    def pids(self) -> list[int]:
        """The living zygotes."""
        with self._lock:
            return [z.pid for z in self._all]

    def close(self) -> None:
        """End all zygotes and children; jobs that run raise `SandboxError`."""
        with self._lock:
            self._closed = True
            for zygote in self._all:
                # This wakes a thread that watches its child. That thread closes the socket, which is in use.
                zygote.kill()
        taken = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._idle.get_nowait())
        for idle in taken:
            if idle is not None:
                self._drop(idle)
            self._idle.put(None)  # a thread that still comes for a worker must not wait for ever

    def run(self, job: Job) -> Execution:
        """Run `job` in a fresh child; waits for a free worker.

        A starved run, like any trouble of ours, is repeated once.

        Raises:
            SandboxError: it failed or starved twice.
        """
        asked = time.monotonic()
        with self.memory.reserve(job.limits.memory_mb):
            try:
                return self._run_once(job, asked)
            except SandboxError:
                TROUBLE.inc()
                if self._closed:
                    raise
            try:
                return self._run_once(job, time.monotonic())
            except SandboxError:
                TROUBLE.inc()
                raise

    def _run_once(self, job: Job, asked: float) -> Execution:
        zygote = self._idle.get()
        try:
            if zygote is None:
                zygote = self._start()
            WAIT_SECONDS.observe(time.monotonic() - asked)
            with RUNNING.track_inprogress():
                execution = supervise(zygote, job)
            RUN_SECONDS.labels(execution.end).observe(execution.wall_s)
            CPU_SECONDS.inc(execution.cpu_s)
            crashed = execution.end is End.SIGNAL and execution.code in (signal.SIGSEGV, signal.SIGABRT)
            if crashed or zygote.jobs >= RECYCLE_AFTER:  # a crash may be a probe of the shared address layout
                self._replace(zygote, "crash" if crashed else "age")
                zygote = None
        except BaseException:
            if zygote is not None:
                self._replace(zygote, "trouble")
                zygote = None
            raise
        finally:
            if self._closed and zygote is not None:
                self._drop(zygote)
                zygote = None
            self._idle.put(zygote)
        if execution.end is End.STARVED:
            raise SandboxError("the machine is too busy: a program got no CPU for its whole wall limit")
        return execution

    def _replace(self, zygote: Zygote, reason: str) -> None:
        """End a zygote; the next job of its worker starts another."""
        if not self._closed:
            RESTARTS.labels(reason).inc()
        self._drop(zygote)
