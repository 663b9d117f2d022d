"""Watching one child from start to end: feed it, collect what it writes, keep its limits.

Invariants:
- The clock is looked at in every round of the loop, so neither a flood nor silence postpones a deadline.
- Time limits are CPU time. Waiting has a wider limit of its own (`Limits.wall_s`), and only waiting that is the
  program's own doing counts towards it: not before the child is sealed, not while it waits for a CPU or for a disk, not
  while it waits for this loop or, having ended, for its zygote. A child that is kept waiting for long ends as
  `STARVED`, which is our trouble: a busy machine never turns a right answer into a timeout.
- The end of a child is known from the zygote, never from its pipes: it may close them and live on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from pmd.services.verifier.sandbox.client import ANSWER_TIMEOUT_S, Zygote
from pmd.services.verifier.sandbox.harness import END, LOADED, OUT_OF_MEMORY, SPEECHLESS
from pmd.services.verifier.sandbox.job import DIAGNOSTICS, End, Execution, Job, Limits, SandboxError
from pmd.services.verifier.sandbox.zygote import CHILD_FDS, SEALED

CHUNK = 1 << 16
MIN_TICK_S = 0.004
LOOK_S = 0.05
"""How often a child's threads are counted."""
HICCUP_S = 2 * LOOK_S
"""A round of the loop that took longer was held up by the machine; no more of it counts as the child's waiting."""
MAX_THREADS = 256
STDOUT, STDERR, REPORT = 0, 1, 2
"""Indices of a child's streams, in the order in which they are read."""
DISK = b"D"
"""State of a process that waits for the kernel. A program can't bring it about for long: the one call that would
(`vfork`, or `clone` with its flag) is refused."""
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)
"""Ends of a program whose stack has no more room, or whose C library gets no memory."""
USED_UP = 0.8
"""Part of its memory from which on a program that crashed, or was killed, did so for want of more."""
PATIENCE = 10
"""A starved child is given up after so many times its wall limit."""


def supervise(zygote: Zygote, job: Job) -> Execution:
    """Run `job` in a child of `zygote` and watch it to its end.

    Raises:
        SandboxError: trouble that the program did not cause.
    """
    limits = job.limits
    with contextlib.ExitStack() as stack:
        pipes = _pipes()
        stdin, readers = pipes[0][1], [reader for reader, _ in pipes[1:]]
        theirs = [pipes[0][0], *(writer for _, writer in pipes[1:])]
        for fd in readers:
            stack.callback(os.close, fd)
        feed = _Feed(stdin, job.encode())
        stack.callback(feed.close)
        try:
            for fd in theirs:  # the child's own ends block, as programs expect
                os.set_blocking(fd, True)
            began = time.monotonic()
            pid, pidfd = zygote.spawn(theirs, limits.memory_mb << 20, int(limits.cpu_s) + 2)
        finally:
            for fd in theirs:
                os.close(fd)
        stack.callback(os.close, pidfd)
        try:
            watch = _Watch(zygote.control.fileno(), (pid, pidfd), feed, readers, job)
            end = watch.loop(began)
            status, cpu_s, queued_s, max_rss = zygote.reap()
        except BaseException:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            raise
        wall_s = time.monotonic() - began
        if watch.drain():
            end = end or End.OUTPUT
    own_s = max(0.0, watch.own_s - queued_s)
    stdout, stderr, report = (bytes(buffer) for buffer in watch.output)
    if not report.startswith(SEALED):
        raise SandboxError(f"a child could not seal itself: {report.decode(errors='replace') or 'no word from it'}")
    code = os.waitstatus_to_exitcode(status)
    if end is None:
        end = _classify(code, cpu_s, max_rss, limits, report)
    said = report[len(SEALED) :]
    return Execution(
        end,
        abs(code),
        stdout,
        stderr,
        said.removeprefix(LOADED).removesuffix(END),
        spoke=said.endswith(END),
        loading=job.fn_name is not None and not said.startswith(LOADED),
        cpu_s=cpu_s,
        wall_s=wall_s,
        max_rss_kb=max_rss,
        queued_s=queued_s,
        own_s=own_s,
    )


def _pipes() -> list[tuple[int, int]]:
    """(Read end, write end) of a child's descriptors 0 to 3, all non-blocking."""
    pipes: list[tuple[int, int]] = []
    try:
        for _ in range(CHILD_FDS):
            pipes.append(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            os.fchmod(pipes[-1][0], 0o666)  # a child of another user may open /dev/stdin
    except OSError as error:
        for fd in (fd for pipe in pipes for fd in pipe):
            os.close(fd)
        raise SandboxError(f"no pipes for a child: {error}") from error
    return pipes


def _classify(code: int, cpu_s: float, max_rss_kb: int, limits: Limits, report: bytes) -> End:
    """The end of a child that we did not kill."""
    if cpu_s > limits.cpu_s:  # it outran our clock, or the kernel's own limit was first
        return End.CPU
    if code >= 0:
        speechless = code == SPEECHLESS and not report.endswith(END)
        return End.MEMORY if speechless or report.endswith(OUT_OF_MEMORY) else End.EXIT
    used_up = max_rss_kb >= USED_UP * limits.memory_mb * 1024
    if code == -signal.SIGKILL and not used_up:
        # A program can't kill itself this way; an out-of-memory killer or a person did.
        raise SandboxError("somebody else killed a child; is the machine out of memory?")
    return End.MEMORY if used_up and -code in (signal.SIGKILL, *CRASHES) else End.SIGNAL


class _Feed:
    """A child's descriptor 0 from our side: written as far as the pipe takes it, closed at the end."""

    def __init__(self, fd: int, data: bytes) -> None:
        self.fd = fd
        self._data = memoryview(data)

    def write(self) -> bool:
        """Write some; True when there is no more to do."""
        try:
            self._data = self._data[os.write(self.fd, self._data[:CHUNK]) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # the program does not read its input: its own affair
            self._data = self._data[:0]
        return not self._data

    def close(self) -> None:
        """Close the descriptor, once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Watch:
    """The loop that feeds one child, collects what it writes, and ends it when a limit is passed."""

    def __init__(self, control: int, child: tuple[int, int], feed: _Feed, readers: list[int], job: Job) -> None:
        self._control = control
        self._pid, self._pidfd = child
        self._feed = feed
        self._open = {fd: index for index, fd in enumerate(readers)}
        self._limits = job.limits
        diagnostics = (STDERR,) if job.fn_name is None else (STDOUT, STDERR)
        self._left = dict.fromkeys(diagnostics, DIAGNOSTICS * job.limits.output_kb << 10)
        self.output = tuple(bytearray() for _ in readers)
        self.own_s = 0.0
        """Seconds that the sealed child lived as far as this loop could see it, in the run queue or not."""
        self._own_limit = job.limits.wall_s
        self._ended = select.poll()
        self._ended.register(self._pidfd, select.POLLIN)
        self._poll = select.poll()
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(feed.fd, select.POLLOUT)
        for fd in readers:
            self._poll.register(fd, select.POLLIN)

    def loop(self, began: float) -> End | None:
        """Until the zygote has reaped the child; why we killed it, or None."""
        killed: End | None = None
        seen, deadline, wait = began, began, min(self._limits.cpu_s, LOOK_S)
        while True:
            events = self._poll.poll(max(wait, MIN_TICK_S) * 1000)
            ready = {fd for fd, _ in events}
            if self._control in ready:
                return killed
            if self._feed.fd in ready and self._feed.write():
                self._poll.unregister(self._feed.fd)
                self._feed.close()
            flooded = [self._read(fd) for fd in ready & self._open.keys()]
            now = time.monotonic()
            if killed is not None:
                if now > deadline:
                    raise SandboxError("the zygote did not reap a killed child")
                continue
            cpu_s = self._cpu_s()
            killed = End.OUTPUT if any(flooded) else self._limit_passed(cpu_s, now - seen, now - began)
            seen, wait = now, min(self._limits.cpu_s - cpu_s, self._own_limit - self.own_s, LOOK_S)
            if killed is not None:
                self._kill()
                deadline, wait = now + ANSWER_TIMEOUT_S, ANSWER_TIMEOUT_S

    def _limit_passed(self, cpu_s: float, round_s: float, wall_s: float) -> End | None:
        """The limit that the child has passed, if any; counts the last round of the loop as its waiting, or not."""
        limits = self._limits
        if cpu_s >= limits.cpu_s:
            return End.CPU
        threads, state = self._facts()
        if threads > MAX_THREADS:
            return End.THREADS
        if self.output[REPORT] and state != DISK and not self._ended.poll(0):
            self.own_s += min(round_s, HICCUP_S)
        if self.own_s >= self._own_limit:
            queued_s = self._queued_s()
            if self.own_s - queued_s >= limits.wall_s:
                return End.WALL
            self._own_limit = limits.wall_s + queued_s
        return End.STARVED if wall_s >= PATIENCE * limits.wall_s else None

    def _kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        for fd in self._open:
            self._poll.unregister(fd)
        self._open.clear()

    def _read(self, fd: int) -> bool:
        """Read one chunk of a stream; True when the stream is over its limit."""
        index = self._open[fd]
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._poll.unregister(fd)
            del self._open[fd]
            return False
        return self._keep(index, chunk)

    def _keep(self, index: int, chunk: bytes) -> bool:
        """Keep what fits of a chunk; True when its stream is over its limit."""
        room = (self._limits.output_kb << 10) - len(self.output[index])
        self.output[index].extend(chunk[:room])
        if index in self._left:
            self._left[index] -= len(chunk)
            return self._left[index] < 0
        return len(chunk) > room

    def drain(self) -> bool:
        """Take what an ended child left in its pipes; True when a stream is over its limit."""
        for fd, index in self._open.items():
            with contextlib.suppress(BlockingIOError):
                while chunk := os.read(fd, CHUNK):
                    if self._keep(index, chunk):
                        return True
        return False

    def _facts(self) -> tuple[int, bytes]:
        """The child's threads, and the state of its first one, a letter; (0, nothing) when it is gone."""
        try:
            facts = Path(f"/proc/{self._pid}/status").read_bytes()
            threads, state = (facts.partition(word)[2].split(maxsplit=1)[0] for word in (b"\nThreads:", b"\nState:"))
            return int(threads), state
        except (OSError, ValueError, IndexError):
            return 0, b""

    def _cpu_s(self) -> float:
        """CPU seconds that the child has used; it is not reaped before we read its end, so the pid is its own."""
        clock = (~self._pid << 3) | 2  # the kernel's id for the CPU clock of another process
        try:
            return time.clock_gettime(clock)
        except OSError:
            return 0.0  # ended and reaped in this instant; the next round reads its end

    def _queued_s(self) -> float:
        """Seconds that the child was runnable but the machine ran something else: its most kept waiting thread.

        A program can't fake it: threads that wait for each other are not runnable, and those that run use CPU time.
        """
        waited_ns = 0
        with contextlib.suppress(OSError, ValueError, IndexError):  # threads end; some kernels don't tell
            for task in Path(f"/proc/{self._pid}/task").iterdir():
                waited_ns = max(waited_ns, int((task / "schedstat").read_text().split()[1]))
        return waited_ns / 1e9
