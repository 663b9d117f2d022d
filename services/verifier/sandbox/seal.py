"""Sealing: how a freshly forked child gives up every power that running a program doesn't need.

Invariants:
- What can be prepared once (Landlock ruleset, seccomp program) is prepared in the zygote; a child only applies it.
- The order of `Seal.apply` is binding: death signal, descriptors, limits, capabilities, no_new_privs, Landlock,
  seccomp last. Each step either holds or the child ends before it reads one byte of the program.
- Nothing here imports outside the standard library: it is imported by the zygote.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pmd.services.verifier.sandbox.syscalls import Filter, build_filter

LIBC = ctypes.CDLL(None, use_errno=True)

CLOSE_RANGE = 436
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Landlock ABI -> number of file system rights it handles; later ones handle as many as ABI 5."""
NET_RIGHTS = 0b11
"""Bind and connect TCP (ABI 4)."""
SCOPES = 0b11
"""Abstract unix sockets and signals stay inside the child (ABI 6)."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 21, 22, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522

STDIO_AND_RESULT = 4
"""A child holds descriptors 0, 1, 2 and 3 (its result); everything from here up is closed."""
ZYGOTE_FILES = 64
CHILD_FILES = 16


class SealError(OSError):
    """The kernel refuses a part of the seal."""


def _check(value: int, what: str) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise SealError(code, f"{what}: {os.strerror(code)}")
    return value


def _prctl(option: int, *arguments: int) -> int:
    words = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return int(LIBC.prctl(option, *words))


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 when it has none."""
    return max(0, int(LIBC.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)))


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    """Grant `rights` beneath `path`; a path that does not exist needs no rule."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("<Qi", rights, fd)
        _check(
            LIBC.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0), f"landlock rule for {path}"
        )
    finally:
        os.close(fd)


def landlock_ruleset(abi: int, libraries: Iterable[str]) -> int:
    """A ruleset that leaves a child nothing but reading the standard library and `libraries`; its descriptor.

    Other packages below the library folder are left out: this service may be one of them. Their names can be
    listed, their contents can't be read.
    """
    fs = (1 << FS_RIGHTS.get(abi, FS_RIGHTS[5])) - 1
    attributes = struct.pack("<QQQ", fs, NET_RIGHTS, SCOPES)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _check(LIBC.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock_create_ruleset")
    for folder in sys.path:
        if not Path(folder).is_dir():
            _add_rule(ruleset, folder, READ_FILE)  # python311.zip, where one is in use
            continue
        _add_rule(ruleset, folder, READ_DIR)
        for entry in os.scandir(folder):
            if entry.name not in ("site-packages", "dist-packages"):
                _add_rule(ruleset, entry.path, READ_FILE | READ_DIR if entry.is_dir() else READ_FILE)
    for path in libraries:
        _add_rule(ruleset, path, READ_FILE | READ_DIR if Path(path).is_dir() else READ_FILE)
    _add_rule(ruleset, "/dev/null", READ_FILE | (WRITE_FILE | TRUNCATE) & fs)
    _add_rule(ruleset, "/dev/urandom", READ_FILE)
    return ruleset


def _stack_limit(memory: int) -> int:
    """Deep recursion may use the memory that there is, as contest judges allow."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    return memory if hard == resource.RLIM_INFINITY else min(memory, hard)


@dataclass(frozen=True)
class Seal:
    """What a zygote has prepared for its children."""

    zygote_pid: int
    ruleset: int | None
    """Landlock ruleset descriptor; None only in an insecure tier."""
    filter: Filter | None
    """Seccomp program; None only in an insecure tier."""
    address_space: int
    """Bytes that this process has mapped, and so every child at its start: what it may take comes on top."""

    @classmethod
    def prepare(cls, libraries: Iterable[str], *, insecure: bool) -> Seal:
        """Prepare the seal of this process's children. Call it last: it measures what children start with.

        Args:
            libraries: files and folders that they may read besides the standard library.
            insecure: leave out what the kernel doesn't offer, instead of failing.

        Raises:
            SealError: Landlock is missing or refused.
            LookupError: no system call table for this machine.
        """
        abi = landlock_abi()
        if abi == 0 and not insecure:
            _check(-1, "this kernel offers no Landlock")
        if not insecure:
            _check(_prctl(PR_GET_SECCOMP), "this kernel offers no seccomp")
        try:
            program = build_filter(os.uname().machine)
        except LookupError:
            if not insecure:
                raise
            program = None
        ruleset = landlock_ruleset(abi, libraries) if abi else None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return cls(os.getpid(), ruleset, program, pages * resource.getpagesize())

    def apply(self, descriptors: list[int], *, memory: int, cpu_s: int) -> None:
        """Seal this process, a fresh fork of the zygote. There is no way back.

        Args:
            descriptors: what becomes 0, 1, 2 and 3; all others are closed.
            memory: bytes of address space that the program may take.
            cpu_s: CPU seconds after which the kernel ends the process whatever the parent does.

        Raises:
            OSError: a step failed; the caller must end the process.
        """
        _check(_prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "PR_SET_PDEATHSIG")
        if os.getppid() != self.zygote_pid:  # the zygote died before the line above took effect
            raise SealError(0, "the zygote is gone")
        os.setsid()
        for target, fd in enumerate(descriptors):
            os.dup2(fd, target)
        ruleset = None if self.ruleset is None else os.dup2(self.ruleset, STDIO_AND_RESULT)
        first = STDIO_AND_RESULT if ruleset is None else STDIO_AND_RESULT + 1
        if LIBC.syscall(CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0) < 0:
            os.closerange(first, ZYGOTE_FILES)  # Linux before 5.9; the zygote can't open more than these
        for limit, value in (
            (resource.RLIMIT_CPU, cpu_s),
            (resource.RLIMIT_STACK, _stack_limit(memory)),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_NOFILE, CHILD_FILES),
            (resource.RLIMIT_MSGQUEUE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        _check(_prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE")  # RLIMIT_CORE does not hold where a pipe takes cores
        if os.geteuid() == 0:  # root that could not become another user: at least without its capabilities
            header = struct.pack("<Ii", CAPABILITY_VERSION_3, 0)
            _check(LIBC.capset(header, bytes(24)), "capset")
        _check(_prctl(PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")
        if ruleset is not None:
            _check(LIBC.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
            os.close(ruleset)
        total = self.address_space + memory
        resource.setrlimit(resource.RLIMIT_AS, (total, total))
        if self.filter is not None:
            own = self.filter.of(os.getpid())
            code = ctypes.create_string_buffer(own, len(own))
            program = struct.pack("@HxxxxxxP", len(own) // 8, ctypes.addressof(code))
            _check(
                LIBC.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), program, ctypes.c_ulong(0)), "seccomp"
            )
