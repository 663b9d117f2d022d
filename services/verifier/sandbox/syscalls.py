"""The seccomp filter of a sandboxed child: which system calls it may make, as classic BPF.

Invariants:
- An allow-list: a call that is not named here fails, so a call that a future kernel adds fails as well.
- No call that it allows makes a process, opens a socket, signals or inspects another process, writes a file,
  or takes memory that RLIMIT_AS does not count (memfd, pipes, shared memory).
- Threads work: `clone` passes with the flags of `pthread_create` and no others, and `clone3`, whose flags lie in memory
  that a filter can't read, answers ENOSYS, upon which the C library falls back to `clone`.
- Foreign calling conventions (i386, x32) kill the process: their numbers mean other calls.

The program is assembled here, in pure Python, because a bare machine has no libseccomp.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine name -> (column in `ALLOWED`, AUDIT_ARCH number)."""

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # open descriptors
    "read": (0, 63),
    "write": (1, 64),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "lseek": (8, 62),
    "close": (3, 57),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fstat": (5, 80),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # files, which Landlock limits to reading the standard library
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    # time
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    # signals to oneself by timer, and their handling
    "alarm": (37, None),
    "pause": (34, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # threads
    "futex": (202, 98),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168),
    # facts about oneself and the machine
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "getpriority": (140, 141),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    # the end
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Calls that always pass: name -> number on (x86_64, aarch64); None where an architecture has no such call."""

CHECKED: dict[str, tuple[int, int]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "tgkill": (234, 131),
}
RLIMIT_STACK = 3
"""Calls that pass depending on their arguments."""

PTHREAD = 0x003D0F00
"""CLONE_{VM,FS,FILES,SIGHAND,THREAD,SYSVSEM,SETTLS,PARENT_SETTID,CHILD_CLEARTID}. One more could be CLONE_VFORK, by
which the caller waits in the state that `watch.py` takes for the machine's doing."""
CLONE_DETACHED = 0x00400000
"""Means nothing; musl sets it."""
PR_SET_NAME = 15
SIGABRT = 6
"""The one signal that a process may send, to itself: without it `abort` ends as if by a segmentation fault."""
IOCTLS = (0x5401, 0x5421, 0x5450, 0x5451, 0x541B)
"""TCGETS (isatty), FIONBIO, FIONCLEX, FIOCLEX, FIONREAD."""
FCNTLS = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN with F_SETSIG: together they make
the kernel send any signal to any process of the same user."""

LAST_KNOWN = 439
"""Calls above it are newer than this list: they answer ENOSYS, as on an older kernel, so libraries fall back."""

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000
X32_BIT = 0x40000000

LOAD, AND, JUMP, JUMP_EQUAL, JUMP_ABOVE, JUMP_AT_LEAST, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
NUMBER, ARCH = 0, 4
"""Offsets in `struct seccomp_data`."""


def _argument(index: int, *, high: bool = False) -> int:
    """Offset of the low or high half of a call's argument (both architectures are little-endian)."""
    return 16 + 8 * index + (4 if high else 0)


class _Assembler:
    """Classic BPF with labels. A jump that falls through to the next instruction names no label."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None, str | None]] = []
        self._labels: dict[str, int] = {}

    def op(self, code: int, k: int, *, then: str | None = None, otherwise: str | None = None) -> None:
        """One instruction; `then` and `otherwise` are where a conditional jump goes."""
        self._code.append((code, k, then, otherwise))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def operand(self) -> int:
        """Where in `bytes` the operand of the next instruction will be."""
        return 8 * len(self._code) + 4

    def bytes(self) -> bytes:
        """The `struct sock_filter` array."""

        def offset(at: int, label: str | None) -> int:
            return 0 if label is None else self._labels[label] - at - 1

        return b"".join(
            struct.pack("<HBBI", code, offset(at, then), offset(at, otherwise), k)
            for at, (code, k, then, otherwise) in enumerate(self._code)
        )


@dataclass(frozen=True)
class Filter:
    """A seccomp program, but for the process that it is of."""

    _code: bytes
    _pid_at: int

    def of(self, pid: int) -> bytes:
        """The program for process `pid`, ready for `prctl(PR_SET_SECCOMP)`."""
        return self._code[: self._pid_at] + struct.pack("<I", pid) + self._code[self._pid_at + 4 :]


def build_filter(machine: str) -> Filter:
    """The filter for `machine` (`os.uname().machine`).

    Raises:
        LookupError: for a machine without a table here.
    """
    if machine not in ARCHITECTURES:
        raise LookupError(f"no system call table for {machine}; the sandbox knows {', '.join(ARCHITECTURES)}")
    column, audit_arch = ARCHITECTURES[machine]
    asm = _Assembler()
    asm.op(LOAD, ARCH)
    asm.op(JUMP_EQUAL, audit_arch, otherwise="kill")
    asm.op(LOAD, NUMBER)
    asm.op(JUMP_AT_LEAST, X32_BIT, then="kill")
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            asm.op(JUMP_EQUAL, number, then="allow")
    for name, checked in CHECKED.items():
        asm.op(JUMP_EQUAL, checked[column], then=name)
    asm.op(JUMP_ABOVE, LAST_KNOWN, then="clone3", otherwise="deny")
    pid_at = _check_arguments(asm)
    asm.label("allow")
    asm.op(RETURN, ALLOW)
    asm.label("clone3")
    asm.op(RETURN, ERRNO | errno.ENOSYS)
    asm.label("deny")
    asm.op(RETURN, ERRNO | errno.EPERM)
    asm.label("pretend")
    asm.op(RETURN, ERRNO)
    asm.label("kill")
    asm.op(RETURN, KILL)
    return Filter(asm.bytes(), pid_at)


def _check_arguments(asm: _Assembler) -> int:
    """What becomes of the calls of `CHECKED`; where in the program the process's own id stands."""
    asm.label("clone")
    asm.op(LOAD, _argument(0))
    asm.op(AND, 0xFFFFFFFF ^ CLONE_DETACHED)
    asm.op(JUMP_EQUAL, PTHREAD, then="allow", otherwise="deny")
    asm.label("fcntl")
    asm.op(LOAD, _argument(1))
    for command in FCNTLS:
        asm.op(JUMP_EQUAL, command, then="allow")
    asm.op(RETURN, ERRNO | errno.EPERM)
    asm.label("ioctl")
    asm.op(LOAD, _argument(1))
    for request in IOCTLS:
        asm.op(JUMP_EQUAL, request, then="allow")
    asm.op(RETURN, ERRNO | errno.EPERM)
    asm.label("prctl")
    asm.op(LOAD, _argument(0))
    asm.op(JUMP_EQUAL, PR_SET_NAME, then="allow", otherwise="deny")
    asm.label("prlimit64")  # reading one's own limits: pid 0 and no new limit
    asm.op(LOAD, _argument(0))
    asm.op(JUMP_EQUAL, 0, otherwise="deny")
    for high in (False, True):
        asm.op(LOAD, _argument(2, high=high))
        asm.op(JUMP_EQUAL, 0, otherwise="set_limit")
    asm.op(RETURN, ALLOW)
    asm.label("set_limit")  # honest programs raise their stack, which is at its most already: say yes, do nothing
    asm.op(LOAD, _argument(1))
    asm.op(JUMP_EQUAL, RLIMIT_STACK, then="pretend", otherwise="deny")
    asm.label("tgkill")
    asm.op(LOAD, _argument(2))
    asm.op(JUMP_EQUAL, SIGABRT, otherwise="deny")
    asm.op(LOAD, _argument(0))
    pid_at = asm.operand()
    asm.op(JUMP_EQUAL, 0, then="allow", otherwise="deny")
    return pid_at
