"""Which isolation is in force: found by trying to break it, at start, and reported with every verdict.

Invariants:
- Fail closed: a sandbox out of which one probe escapes is not opened, unless the settings say `insecure`.
- The self-test runs in a real child, through the same pool as every program.

Tiers, the best that holds is taken: `T2` all of T1 inside bubblewrap. `T1` Landlock, seccomp and rlimits.
`T3-insecure` some of that does not hold; for development only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pmd.services.verifier.sandbox import bubblewrap
from pmd.services.verifier.sandbox.job import Job, Limits, SandboxError
from pmd.services.verifier.sandbox.memory import Memory
from pmd.services.verifier.sandbox.pool import Pool

log = logging.getLogger(__name__)

PROBES = {
    "fork": "os.fork() or os._exit(0)",
    "exec": "os.execv('/bin/true', ['true'])",
    "socket": "import _socket; _socket.socket()",
    "signal another process": "os.kill(os.getppid(), 0)",
    "signal by file owner": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "memory outside its limit": "os.memfd_create('x')",
    "read outside the library": "open('/etc/passwd')",
    "read installed packages": "open(SERVICE)",
    "list processes": "os.listdir('/proc')",
    "read its environment": "open('/proc/self/environ')",
    "write": "os.mkdir(FOLDER) or LIBC.rmdir(FOLDER.encode())",
    "inherit a descriptor": "[os.fstat(fd) for fd in range(4, 64)]",
}
"""What must fail: an expression or statement that succeeds means that a child escaped."""

WRAPPED_PROBES = {
    "see files of the host": "os.stat('/etc/passwd')",
    "see processes of the host": "os.stat('/proc/%d' % HOST_PID)",
}
"""What must fail besides in T2; Landlock alone does not hide that a path exists."""

SELF_TEST = """
import ctypes, os
LIBC = ctypes.CDLL(None)
SERVICE = {service!r}
HOST_PID = {pid}
FOLDER = '/tmp/pmd-sandbox-probe-%d' % os.getpid()
def solve(probes):
    escaped = []
    for name, probe in probes.items():
        try:
            exec(probe)
        except OSError:
            continue
        escaped.append(name)
    return escaped
"""

REMEDY = (
    "Run on Linux 5.13 or later with Landlock (`cat /sys/kernel/security/lsm` lists it) and seccomp, and not inside "
    "gVisor. On a machine of your own, for programs that you trust, PMD_SANDBOX_INSECURE=true starts without them."
)


class SandboxUnavailable(SandboxError):
    """This machine can't isolate programs; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Tier:
    """The isolation in force."""

    name: str
    landlock_abi: int
    seccomp: bool
    uid: int
    """User that programs run as."""
    escaped: tuple[str, ...]
    """Probes that succeeded although they must not; empty in T1 and T2."""


def open_sandbox(
    workers: int, *, memory_mb: int | Memory, libraries: tuple[str, ...] = (), insecure: bool
) -> tuple[Pool, Tier]:
    """A pool that has passed its self-test, and the tier that it provides.

    Args:
        workers: concurrent children.
        memory_mb: what they may take together, or the account that they share with other children.
        libraries: installed packages that programs may import.
        insecure: open the sandbox even when programs can escape from it.

    Raises:
        SandboxUnavailable: this machine can't isolate programs and `insecure` is not set.
    """
    if bubblewrap.available():
        try:
            pool = Pool(workers, memory_mb=memory_mb, libraries=libraries, wrapped=True)
        except SandboxError as error:
            log.info("no tier T2: %s", error)
        else:
            with contextlib.suppress(SandboxError):
                if not _escapes(pool, PROBES | WRAPPED_PROBES):
                    return pool, _tier("T2", pool, [])
            pool.close()
    try:
        pool = Pool(workers, memory_mb=memory_mb, libraries=libraries, insecure=insecure)
    except SandboxError as error:
        raise SandboxUnavailable(f"{error}. {REMEDY}") from error
    try:
        escaped = _escapes(pool, PROBES)
        if escaped and not insecure:
            raise SandboxUnavailable(f"programs can escape the sandbox here ({', '.join(escaped)}). {REMEDY}")
    except SandboxUnavailable:
        pool.close()
        raise
    except SandboxError as error:
        pool.close()
        raise SandboxUnavailable(f"the sandbox failed its self-test: {error}. {REMEDY}") from error
    return pool, _tier("T3-insecure" if escaped else "T1", pool, escaped)


def _tier(name: str, pool: Pool, escaped: list[str]) -> Tier:
    facts = pool.facts
    return Tier(name, facts["landlock"], facts["seccomp"], facts["uid"], tuple(escaped))


def _escapes(pool: Pool, probes: dict[str, str]) -> list[str]:
    """The probes that succeed in a child."""
    source = SELF_TEST.format(service=str(Path(__file__).resolve()), pid=os.getpid())
    limits = Limits(cpu_s=5.0, memory_mb=512, output_kb=64)
    execution = pool.run(Job(source, "solve", json.dumps(probes), limits))
    try:
        escaped = json.loads(execution.report)["value"]
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"the probes did not finish ({execution.end} {execution.code})") from error
    return [str(name) for name in escaped]
