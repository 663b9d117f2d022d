"""The trusted side of a zygote: start it, ask it for children, learn how they ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pmd
from pmd.services.verifier.sandbox import bubblewrap
from pmd.services.verifier.sandbox.job import SandboxAway, SandboxError
from pmd.services.verifier.sandbox.zygote import ENDED, REFUSED, SPAWN, STARTED, STATUS

BOOT = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); from pmd.services.verifier.sandbox.zygote import main; "
    "main(**json.loads(sys.argv[2]))"
)
PACKAGE_ROOT = str(Path(pmd.__file__).parents[1])
START_TIMEOUT_S = 300.0
"""Imports included, which take seconds of CPU for judges; a busy machine gives a process a fiftieth of a core."""
ANSWER_TIMEOUT_S = 10.0
"""For what a zygote does at once (fork, reap a killed child); longer means that it is broken."""


class Zygote:
    """A zygote process and the socket that controls it."""

    def __init__(self, libraries: tuple[str, ...], *, wrapped: bool, insecure: bool) -> None:
        """Start a zygote and wait until it can fork.

        Args:
            libraries: installed packages that programs may import.
            wrapped: inside a container of bubblewrap.

        Raises:
            SandboxAway: it could not start or seal; the message is its own.
        """
        self.jobs = 0
        try:
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self.process, self.pid = _start(theirs.fileno(), libraries, wrapped=wrapped, insecure=insecure)
        except OSError as error:
            raise SandboxAway(f"the sandbox's zygote could not start: {error}") from error
        self.control.settimeout(START_TIMEOUT_S)
        try:
            hello = self.control.recv(4096) or b'{"error": "it ended at once"}'
        except OSError as error:
            hello = json.dumps({"error": str(error)}).encode()
        self.facts: dict[str, Any] = json.loads(hello)
        if "error" in self.facts:
            self.close()
            raise SandboxAway(f"the sandbox's zygote could not start: {self.facts['error']}")
        self.control.settimeout(ANSWER_TIMEOUT_S)

    def spawn(self, descriptors: list[int], memory: int, cpu_s: int) -> tuple[int, int]:
        """Fork a child over `descriptors` (its 0 to 3); its pid, and its pidfd, which the caller closes.

        Raises:
            SandboxError: the zygote is gone or could not fork.
        """
        self.jobs += 1
        try:
            socket.send_fds(self.control, [SPAWN.pack(memory, cpu_s)], descriptors)
            message, fds, _, _ = socket.recv_fds(self.control, 256, 1)
        except OSError as error:
            raise SandboxError(f"the zygote did not answer: {error}") from error
        if message.startswith(STARTED) and len(fds) == 1:
            return _pid_of(fds[0]), fds[0]
        reason = message.removeprefix(REFUSED).decode() if message else "the zygote is gone"
        raise SandboxError(f"no child could be started: {reason}")

    def reap(self) -> tuple[int, float, float, int]:
        """Wait status, CPU seconds, seconds in the run queue and largest resident set (KiB) of the ended child.

        Raises:
            SandboxError: the zygote is gone.
        """
        try:
            message = self.control.recv(256)
        except OSError as error:
            raise SandboxError(f"the zygote did not report its child's end: {error}") from error
        if not message.startswith(ENDED):
            raise SandboxError("the zygote died while its child ran")
        status, user, system, queued, max_rss = STATUS.unpack(message[1:])
        return status, user + system, queued, max_rss

    def close(self) -> None:
        """End the zygote, and with it its child."""
        self.control.close()
        self.kill()
        self.process.wait()

    def kill(self) -> None:
        """End the zygote's process, and with it its child; whoever waits for it wakes up."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:  # its id, or its container's, is not yet anybody else's
                os.kill(self.pid, signal.SIGKILL)


def _pid_of(pidfd: int) -> int:
    """The process of `pidfd` by its id here; in the zygote's namespace it has another one."""
    facts = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return int(facts.partition("\nPid:")[2].split(maxsplit=1)[0])


def _package_folders() -> list[str]:
    """Folders of installed packages: ours, and those of the interpreters and distributions that ours builds on."""
    own = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return list(dict.fromkeys((*own, *others)))


def _start(
    control_fd: int, libraries: tuple[str, ...], *, wrapped: bool, insecure: bool
) -> tuple[subprocess.Popen[bytes], int]:
    """The process that we started, and the zygote's own id: inside bubblewrap they differ."""
    search = _package_folders()
    arguments = {"control_fd": control_fd, "libraries": libraries, "search": search, "insecure": insecure}
    # A Python that needs a library path to start keeps it; nothing else of our environment goes along.
    environment = {"PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    # -I would also ignore PYTHONHASHSEED, without which the order of sets differs between zygotes. The environment
    # is ours alone, so -s -P -S isolates as well.
    python = str(Path(sys.executable).resolve())  # a virtual environment's link is not shown in a container
    boot = [python, "-s", "-P", "-S", "-X", "utf8", "-c", BOOT, PACKAGE_ROOT, json.dumps(arguments)]
    told, telling = os.pipe() if wrapped else (-1, -1)
    try:
        process = subprocess.Popen(
            [*bubblewrap.command(telling, PACKAGE_ROOT, search), *boot] if wrapped else boot,
            executable=shutil.which("bwrap") if wrapped else None,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if wrapped else None,
            pass_fds=[control_fd, telling] if wrapped else [control_fd],
            start_new_session=True,
        )
        if not wrapped:
            return process, process.pid
        os.close(telling)
        telling = -1
        return process, bubblewrap.zygote_pid(told) or process.pid
    finally:
        for fd in (told, telling):
            if fd >= 0:
                os.close(fd)
