"""Become another environment, then run a command: `python profiles.py user|container COMMAND...`

- `user`: an ordinary user (uid 1000), no capabilities.
- `container`: that, with an empty bounding set, no_new_privs, and a seccomp filter that refuses what the default
  profile of Docker and containerd refuses to a container without capabilities.
  It can't emulate AppArmor or a masked /proc.

Started by root, it first gives the user Python and this repository where they are closed to others, by a folder above
them (as /root is) or by the umask that they were made under: in a mount namespace of its own, by mounts in which root's
files are the user's, and by a tmpfs over the closed folder. Started by an ordinary user it changes what is left to
change. Uses the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
UID = 1000
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # the same numbers on every machine, and not in the C library
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x00100000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 24, 38, 22
LAST_CAPABILITY = 40

AUDIT_ARCH_X86_64 = 0xC000003E
ALLOW, ERRNO, EPERM, ENOSYS = 0x7FFF0000, 0x00050000, 1, 38
LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
CLONE, CLONE3, SOCKET, AF_VSOCK = 56, 435, 41, 40
NAMESPACES = 0x7E020000
REFUSED = {
    # Docker's default profile (moby, profiles/seccomp/default.json) without any capability, x86_64
    "uselib": 134, "ustat": 136, "vhangup": 153, "pivot_root": 155, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179,
    "lookup_dcookie": 212, "syslog": 103, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304,
    "setns": 308, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
    "quotactl_fd": 443,
}  # fmt: skip


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [word.encode() if word else None for word in (source, str(target), kind)]
    _check(LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() if data else None), f"mount on {target}")


def _owned_tree(path: Path) -> int:
    """What lies at `path` as a mount that is nowhere yet, and in which root's files are the user's: an open file."""
    opened, made = os.pipe()
    if (child := os.fork()) == 0:
        _check(LIBC.unshare(CLONE_NEWUSER), "unshare")
        os.write(made, b".")
        signal.pause()
    try:
        os.close(made)
        if not os.read(opened, 1):
            raise OSError("no user namespace, so no files of the user's")
        for ids in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{ids}").write_text(f"0 {UID} 1")
        users = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    finally:
        os.close(opened)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    tree: int = LIBC.syscall(OPEN_TREE, AT_FDCWD, str(path).encode(), OPEN_TREE_CLONE | os.O_CLOEXEC)
    _check(tree, "open_tree")
    attributes = struct.pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, users)
    _check(LIBC.syscall(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, len(attributes)), "mount_setattr")
    os.close(users)
    return tree


def _closed(path: Path) -> Path | None:
    """The highest of `path` and the folders above it that others can't pass."""
    for folder in (*reversed(path.parents), path):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _open_paths(needed: set[Path]) -> None:
    """Make `needed` the user's, in this process and its children only."""
    _check(LIBC.unshare(CLONE_NEWNS), "unshare")
    _mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    closed = {path: folder for path in needed if (folder := _closed(path))}
    trees = {path: _owned_tree(path) for path in closed}
    for folder in set(closed.values()) - needed:
        _mount("tmpfs", folder, "tmpfs", 0, "mode=755,size=1m")
    umask = os.umask(0o022)
    for path, tree in sorted(trees.items()):
        path.mkdir(parents=True, exist_ok=True)
        target = str(path).encode()
        _check(LIBC.syscall(MOVE_MOUNT, tree, b"", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), f"mount on {path}")
        os.close(tree)
    os.umask(umask)
    os.chdir(Path.cwd())  # from the covered folder into what covers it


def _default_seccomp_profile() -> bytes:
    """The filter, for x86_64; other calling conventions pass, as they do there."""
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, AUDIT_ARCH_X86_64), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, 0)]
    for number in REFUSED.values():
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | EPERM)]
    code += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ERRNO | ENOSYS)]
    code += [(EQUAL, 0, 5, CLONE), (LOAD, 0, 0, 16), (AND, 0, 0, NAMESPACES), (EQUAL, 0, 1, 0), (RETURN, 0, 0, ALLOW)]
    code += [(RETURN, 0, 0, ERRNO | EPERM)]
    code += [(EQUAL, 0, 3, SOCKET), (LOAD, 0, 0, 16), (EQUAL, 0, 1, AF_VSOCK), (RETURN, 0, 0, ERRNO | EPERM)]
    code += [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def become(profile: str) -> None:
    """Change this process; there is no way back."""
    if os.geteuid() == 0:
        repository = Path(__file__).resolve().parents[2]
        _open_paths({repository, *(Path(p).resolve() for p in (sys.base_prefix, sys.prefix))})
        if profile == "container":
            for capability in range(LAST_CAPABILITY + 1):
                _check(LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "PR_CAPBSET_DROP")
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    if profile == "container":
        if os.uname().machine != "x86_64":
            raise SystemExit("the profile's system call numbers are those of x86_64")
        _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
        filter_bytes = _default_seccomp_profile()
        buffer = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
        program = struct.pack("@HxxxxxxP", len(filter_bytes) // 8, ctypes.addressof(buffer))
        _check(LIBC.prctl(PR_SET_SECCOMP, 2, program, 0, 0), "PR_SET_SECCOMP")


if __name__ == "__main__":
    become(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 -- its purpose
