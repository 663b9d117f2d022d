"""Keeps a set of programs running until it is told to stop.

Invariants:
- One supervisor per state folder: `up.lock` is held until everything that it started is dead.
- A program that ends is started again, after a delay that doubles while it keeps ending early. What its process
  group left behind is killed first.
- Nothing outlives the supervisor, not even when it is killed with SIGKILL (`pmd.gateway.local.reaper`).
- Where the reaper was killed too, the next `pmd up` or `pmd down` ends what is left (`end_leftovers`).
- `up.json` is complete or absent, and says what runs now. It counts only while `supervisor.lock` is held, which
  the supervisor alone holds; otherwise it is a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pmd.services.common.process import started

log = logging.getLogger(__name__)

TICK_S = 0.1
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 15.0
STABLE_S = 30.0
"""A program that ran this long before it ended is restarted without a growing delay."""
GRACE_S = 15.0
"""From SIGTERM to SIGKILL; longer than the services' own drain."""
END_PATIENCE_S = 5.0
"""From SIGKILL to the end of what is left over."""
LOG_LIMIT_BYTES = 32 << 20


class AlreadyRunning(RuntimeError):
    """Another supervisor holds the state folder."""


@dataclass(frozen=True)
class Program:
    """What to keep running."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    url: str = ""
    """Where it answers; empty when it does not listen on HTTP."""
    ready: str = "/readyz"
    """Path that answers 200 once it can work."""
    stdin: bytes = b""
    """What it reads at its start; for secrets, which a command line would show to every user."""
    stops_last: bool = False
    """Stopped once the others are gone: they need it to end their work."""


@dataclass
class _Child:
    program: Program
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    since: float = 0.0
    """`began`, as Unix time: what other processes can read."""
    due: float = 0.0
    delay: float = FIRST_DELAY_S
    restarts: int = 0


@contextlib.contextmanager
def hold(state_dir: Path, patience_s: float = 2.0) -> Iterator[IO[str]]:
    """Hold the state folder.

    `patience_s` outlasts the instant for which `is_held` takes the lock, and a reaper's last work.

    Raises:
        AlreadyRunning: when another process keeps it.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with (state_dir / "up.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AlreadyRunning(f"{state_dir} is in use; `pmd down` stops what runs there") from None
                time.sleep(0.05)
        yield lock


def is_held(state_dir: Path, name: str = "up.lock") -> bool:
    """Whether a supervisor, or what one has left to clean up, is alive."""
    try:
        with (state_dir / name).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class Supervisor:
    """Runs `programs` with logs in `<state_dir>/logs`; the caller's thread is the only one that spawns."""

    def __init__(self, state_dir: Path, programs: Sequence[Program], details: Mapping[str, Any]) -> None:
        self._state_dir = state_dir
        self._details = dict(details)
        logs = state_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._children = [_Child(p, logs / f"{p.name}.log") for p in programs]
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._reaper: subprocess.Popen[str] | None = None
        self._lock: IO[str] | None = None

    def stop(self) -> None:
        """End `run` gracefully; a second call makes it hurry. Safe in signal handlers."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    def run(self, when_up: Callable[[], None] = lambda: None) -> None:
        """Keep the programs running until `stop`; `when_up` is called once all are started.

        Raises:
            AlreadyRunning: when another supervisor holds the state folder.
        """
        state_path = self._state_dir / "up.json"
        with hold(self._state_dir) as self._lock, (self._state_dir / "supervisor.lock").open("w") as own:
            state_path.unlink(missing_ok=True)  # a leftover must not count from here on
            fcntl.flock(own, fcntl.LOCK_EX)
            try:
                self._tend_all()
                when_up()
                while not self._stop.wait(TICK_S):
                    self._tend_all()
            finally:
                self._stop_all()
                state_path.unlink(missing_ok=True)
                if self._reaper is not None and self._reaper.stdin is not None:
                    self._reaper.stdin.close()
                    self._reaper.wait()

    def _tend_all(self) -> None:
        self._tend_reaper()
        for child in self._children:
            if self._tend(child):
                self._write_state()  # after each: what is not written is not found again after a kill

    def _tend_reaper(self) -> None:
        """Start the reaper, again if something killed it, and tell it of every group."""
        if self._reaper is not None and self._reaper.poll() is None:
            return
        lock = self._lock.fileno() if self._lock else -1
        self._reaper = subprocess.Popen(
            [sys.executable, "-P", "-m", "pmd.gateway.local.reaper"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=(lock,),  # the folder stays held until the reaper has done its work
        )
        for child in self._children:
            if child.process is not None:
                self._tell_reaper("+", child.process.pid)

    def _tell_reaper(self, sign: str, group: int) -> None:
        if self._reaper is None or self._reaper.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # a dead reaper is replaced and told of everything at the next tick
            self._reaper.stdin.write(f"{sign}{group}\n")
            self._reaper.stdin.flush()

    def _tend(self, child: _Child) -> bool:
        """Start `child` when that is due, notice its end. True when something changed."""
        now = time.monotonic()
        if child.process is None:
            if now < child.due:
                return False
            self._spawn(child)
            return True
        code = child.process.poll()
        if code is None:
            return False
        child.delay = FIRST_DELAY_S if now - child.began > STABLE_S else min(child.delay * 2, LONGEST_DELAY_S)
        log.warning("%s ended with %s; starting it again in %.1f s", child.program.name, code, child.delay)
        self._kill_group(child)
        child.due = now + child.delay
        child.restarts += 1
        return True

    def _spawn(self, child: _Child) -> None:
        program = child.program
        if child.log_path.exists() and child.log_path.stat().st_size > LOG_LIMIT_BYTES:
            child.log_path.replace(child.log_path.with_suffix(".log.1"))
        child.began, child.since = time.monotonic(), time.time()
        with child.log_path.open("ab") as sink:
            child.process = subprocess.Popen(
                program.argv,
                env=dict(program.env),
                stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # its own group: one killpg reaches all that it started
            )
        self._tell_reaper("+", child.process.pid)
        if child.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), child.process.stdin as stdin:
                stdin.write(program.stdin)

    def _kill_group(self, child: _Child) -> None:
        """Kill what is left of a child's group and forget it."""
        if child.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self._tell_reaper("-", child.process.pid)
        child.process = None

    def _stop_all(self) -> None:
        for last in (False, True):
            batch = [c for c in self._children if c.program.stops_last is last and c.process is not None]
            for child in batch:
                if child.process is not None:
                    child.process.terminate()
            deadline = time.monotonic() + GRACE_S
            while any(c.process is not None and c.process.poll() is None for c in batch):
                if time.monotonic() > deadline or self._hurry.wait(TICK_S):
                    break
            for child in batch:
                self._kill_group(child)

    def _write_state(self) -> None:
        services = {
            c.program.name: {
                "pid": c.process.pid if c.process else None,
                "ticks": started(c.process.pid) if c.process else None,
                "since": c.since,
                "url": c.program.url,
                "ready": c.program.ready,
                "restarts": c.restarts,
                "log": str(c.log_path),
            }
            for c in self._children
        }
        state = {"pid": os.getpid(), **self._details, "services": services}
        part = self._state_dir / "up.json.tmp"
        part.write_text(json.dumps(state, indent=1))
        part.replace(self._state_dir / "up.json")


def read_state(state_dir: Path) -> dict[str, Any] | None:
    """What runs in `state_dir`; None when nothing does."""
    if not is_held(state_dir, "supervisor.lock"):
        return None
    try:
        state: dict[str, Any] = json.loads((state_dir / "up.json").read_text())
    except FileNotFoundError:
        return None  # a supervisor is about to write it, or has just removed it
    return state


def end_leftovers(state_dir: Path) -> list[str]:
    """End what a supervisor and its reaper, both killed, have left running; returns the names of the programs.

    For who holds the state folder: nothing of a supervisor that lives is a leftover. A group counts as ours when its
    leader is the very process that was started, or is gone and one of its members was given this state folder.
    """
    try:
        services = json.loads((state_dir / "up.json").read_text())["services"]
    except (OSError, ValueError, KeyError):
        return []
    ended, groups = [], []
    for name, service in services.items():
        group = service.get("pid")
        if not group:
            continue
        began = started(group)
        if began == service.get("ticks") if began is not None else _has_member_of(group, state_dir):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
                ended.append(name)
                groups.append(group)
    deadline = time.monotonic() + END_PATIENCE_S
    while any(started(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(TICK_S / 2)
    (state_dir / "up.json").unlink(missing_ok=True)
    return ended


def _has_member_of(group: int, state_dir: Path) -> bool:
    """Whether a process of the group was started with this state folder in its environment."""
    given = f"PMD_STATE_DIR={state_dir}".encode()
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getpgid(int(each.name)) == group and given in (each / "environ").read_bytes().split(b"\0"):
                return True
    return False
