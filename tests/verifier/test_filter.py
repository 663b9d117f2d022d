"""The seccomp program, run in a small interpreter: what it says on both architectures, without their machines."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from pmd.services.verifier.sandbox.syscalls import ALLOW, ALLOWED, ARCHITECTURES, CHECKED, ERRNO, KILL, build_filter

OWN = 4321
"""The process that a program is made for."""
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
MACHINES = tuple(ARCHITECTURES)
FORBIDDEN = {
    # name: (x86_64, aarch64)
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "chdir": (80, 49),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "pipe2": (293, 59),
    "eventfd2": (290, 19),
    "mkdirat": (258, 34),
    "unlinkat": (263, 35),
    "renameat2": (316, 276),
    "symlinkat": (266, 36),
    "linkat": (265, 37),
    "fchmodat": (268, 53),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "setuid": (105, 146),
    "capset": (126, 91),
    "seccomp": (317, 277),
    "setrlimit": (160, 164),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "sendfile": (40, 71),
    "splice": (275, 76),
    "timer_create": (222, 107),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "io_setup": (206, 0),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mbind": (237, 235),
    "move_pages": (279, 239),
    "swapon": (167, 224),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "personality": (135, 92),
}


def run_filter(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter answers to a call: a classic BPF interpreter for the instructions that it uses."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("<HBBI", program))
    at, value = 0, 0
    while True:
        op, then, otherwise, k = code[at]
        at += 1
        match op:
            case 0x20:
                (value,) = struct.unpack_from("<I", data, k)
            case 0x54:
                value &= k
            case 0x15:
                at += then if value == k else otherwise
            case 0x25:
                at += then if value > k else otherwise
            case 0x35:
                at += then if value >= k else otherwise
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"unexpected instruction {op:#x}")


class Call:
    """Calls of one architecture."""

    def __init__(self, machine: str) -> None:
        self.column, self.arch = ARCHITECTURES[machine]
        self.program = build_filter(machine).of(OWN)

    def __call__(self, number: int, *arguments: int) -> int:
        return run_filter(self.program, self.arch, number, arguments)

    def named(self, name: str, *arguments: int) -> int:
        number = {**ALLOWED, **CHECKED}[name][self.column]
        assert number is not None
        return self(number, *arguments)


@pytest.fixture(params=MACHINES)
def call(request: pytest.FixtureRequest) -> Call:
    return Call(request.param)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_calls_are_refused(call: Call, name: str) -> None:
    number = FORBIDDEN[name][call.column]
    if number is not None:
        assert call(number) == EPERM


def test_listed_calls_pass_and_no_other_does(call: Call) -> None:
    listed = {numbers[call.column] for numbers in ALLOWED.values()}
    passing = {n for n in range(600) if call(n) == ALLOW}
    with_zeros = {CHECKED[name][call.column] for name in ("prlimit64", "fcntl")}  # zeros: F_DUPFD, reading one's limit
    assert passing - with_zeros == listed - {None}


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernel_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is missing; the package linux-libc-dev (or its cross variant) brings it")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    numbers = {name: int(number) for name, number in found}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))  # the generic header's name for it
    column = ARCHITECTURES[machine][0]
    for name, columns in {**ALLOWED, **CHECKED, **FORBIDDEN}.items():
        if columns[column] is not None:
            assert numbers[name] == columns[column], name


def test_calls_newer_than_the_list_answer_enosys(call: Call) -> None:
    assert {call(n) for n in range(440, 1000)} == {ENOSYS}


def test_other_architectures_are_killed(call: Call) -> None:
    for arch in (0x40000003, 0x40000028, 0xC00000F3):
        assert run_filter(call.program, arch, 0) == KILL


def test_x32_numbers_are_killed() -> None:
    assert Call("x86_64")(0x40000000 | 39) == KILL


def test_clone_makes_threads_only(call: Call) -> None:
    glibc, musl = 0x003D0F00, 0x007D0F00
    assert {call.named("clone", glibc), call.named("clone", musl)} == {ALLOW}
    assert call.named("clone", 17) == EPERM
    for bit in range(32):
        if not musl >> bit & 1:
            assert call.named("clone", glibc | 1 << bit) == EPERM, "a namespace, a wait as for a child, .."
    assert call.named("clone3") == ENOSYS


def test_fcntl_can_not_direct_signals(call: Call) -> None:
    f_setown, f_setsig, f_setown_ex, f_setlease, f_notify, f_setpipe_sz = 8, 10, 15, 1024, 1026, 1031
    for command in (f_setown, f_setsig, f_setown_ex, f_setlease, f_notify, f_setpipe_sz):
        assert call.named("fcntl", 0, command) == EPERM
    assert call.named("fcntl", 0, 3) == ALLOW


def test_limits_can_be_read_not_set(call: Call) -> None:
    assert call.named("prlimit64", 0, 7, 0, 4096) == ALLOW
    assert call.named("prlimit64", 1, 7, 0, 4096) == EPERM
    for pointer in (4096, 1 << 32):
        assert call.named("prlimit64", 0, 7, pointer, 0) == EPERM


def test_raising_the_stack_is_answered_with_yes_and_does_nothing(call: Call) -> None:
    stack = 3
    for pointer in (4096, 1 << 32):
        assert call.named("prlimit64", 0, stack, pointer, 0) == ERRNO
        assert call.named("prlimit64", 1, stack, pointer, 0) == EPERM


def test_prctl_names_threads_and_nothing_else(call: Call) -> None:
    assert call.named("prctl", 15) == ALLOW
    for option in (1, 4, 8, 22, 23, 28, 38, 47, 0x59616D61):
        assert call.named("prctl", option) == EPERM


def test_a_process_can_abort_itself_and_signal_nothing_else(call: Call) -> None:
    abort, thread = 6, 7
    assert call.named("tgkill", OWN, thread, abort) == ALLOW
    for other in (0, 1, OWN - 1, OWN + 1, 0xFFFFFFFF):
        assert call.named("tgkill", other, thread, abort) == EPERM
    for signal in (*range(abort), *range(abort + 1, 65)):
        assert call.named("tgkill", OWN, thread, signal) == EPERM


def test_ioctl_can_not_push_input_to_a_terminal(call: Call) -> None:
    assert call.named("ioctl", 0, 0x5412) == EPERM
    assert call.named("ioctl", 0, 0x5401) == ALLOW


def test_an_unknown_machine_is_refused_with_its_name() -> None:
    with pytest.raises(LookupError, match="riscv64"):
        build_filter("riscv64")
