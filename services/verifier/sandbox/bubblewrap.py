"""Tier T2: the zygote inside a bubblewrap container, where the host lets it make one.

It adds a second wall around what T1 closes, at no cost per test, because the container is made once per zygote:
an empty root with read-only libraries (a program can't even ask whether a file of the host exists), and own user,
process, network, IPC, UTS and cgroup namespaces, so a hole in the seccomp filter reaches no socket and no process.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

NOBODY = "65534"


def available() -> bool:
    """`bwrap` is installed; whether the host lets it make namespaces is seen when it tries."""
    return shutil.which("bwrap") is not None


def command(info_fd: int, package_root: str, search: list[str]) -> list[str]:
    """What comes before a zygote's command line.

    Args:
        info_fd: descriptor on which bubblewrap tells the zygote's process id.
        package_root: folder above `pmd`, whose modules the zygote imports; Landlock hides them from programs.
        search: folders of installed packages.
    """
    shown = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", sys.base_prefix, os.environ.get("LD_LIBRARY_PATH", "")]
    services = (Path(package_root) / "pmd" / "services").resolve()  # a link in a checkout
    paths = dict.fromkeys(
        path for path in (*shown, *search, f"{package_root}/pmd", str(services)) if path and Path(path).exists()
    )
    return [
        "bwrap",
        *("--unshare-all", "--unshare-user", "--disable-userns", "--uid", NOBODY, "--gid", NOBODY),
        *("--cap-drop", "ALL", "--as-pid-1", "--info-fd", str(info_fd), "--chdir", "/"),
        *("--proc", "/proc", "--dev", "/dev"),
        *(word for path in paths for word in ("--ro-bind", path, path)),
        *("--remount-ro", "/", "--"),
    ]


def zygote_pid(info_fd: int) -> int:
    """The zygote's process id, from what bubblewrap tells; 0 when it ended without telling."""
    told = b""
    while not told.rstrip().endswith(b"}"):
        chunk = os.read(info_fd, 4096)
        if not chunk:
            return 0
        told += chunk
    return int(json.loads(told)["child-pid"])
