"""The zygote: a fresh interpreter that does nothing but fork children, which seal themselves and run programs.

Invariants:
- It is exec'd, not forked, from the service, with an empty environment: no memory of the service, no secret.
- The chosen libraries (numpy) are imported before the first fork: a child that uses them pays nothing for it.
- It never sees a program, an input or an output, let alone an expected one: those travel between the pool and
  the child. All that it reads are the two limits of `SPAWN`; so its heap is the same at every fork, and no job
  leaves a trace for the next.
- It lives exactly as long as its control socket; its children die with it (PDEATHSIG).
- One child at a time.

Protocol (SEQPACKET): the pool sends `SPAWN` with the child's descriptors 0 to 3; the zygote answers `STARTED` with
a pidfd, and `ENDED` once the child is reaped, or `REFUSED` with an errno when it could not fork.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import contextlib
import fcntl
import gc
import importlib
import json
import locale
import os
import random
import resource
import select
import socket
import struct
import sys
from dataclasses import replace
from pathlib import Path

from pmd.services.verifier.sandbox import driver, harness  # noqa: F401 -- children find both imported
from pmd.services.verifier.sandbox.seal import ZYGOTE_FILES, Seal, landlock_abi

SPAWN = struct.Struct("<QI")
"""Address space in bytes, CPU seconds."""
STARTED, ENDED, REFUSED = b"S", b"E", b"R"
STATUS = struct.Struct("<idddQ")
"""Wait status, seconds of user CPU, of system CPU and in the run queue, largest resident set in KiB."""
CHILD_FDS = 4

SEALED = b"!"
"""A child's first byte on descriptor 3, written before it reads the program: a child that ends without it failed to
seal itself. A program can't forge that trouble, because the byte is out before the program is in."""

NOBODY = 65534
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Read by numerical libraries when they are imported: threads of theirs would not survive the fork."""
ENVIRONMENT = {"HOME": "/", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}

# Imported once here: each child saves the import, and the ones that need shared libraries from outside the
# standard library (hashlib, bz2, ..) would be refused by Landlock in the child.
PRELOAD = """
array bisect bz2 cmath collections copy ctypes dataclasses datetime decimal enum fractions functools hashlib heapq io
itertools json lzma math numbers operator random re statistics string struct threading time traceback typing zlib
_sqlite3
"""


def main(control_fd: int, libraries: list[str], search: list[str], insecure: bool) -> None:
    """Serve until the control socket closes.

    Args:
        libraries: packages that programs may import besides the standard library.
        search: folders in which those packages are.
    """
    sys.path.pop(0)  # the entry through which this module was imported: children import from the library only
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir("/")
    for word in ("exit", "quit"):  # what -S leaves out and programs use
        setattr(builtins, word, _sitebuiltins.Quitter(word, "Ctrl-D"))
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")  # a child that asks for it again needs no file
    for name in PRELOAD.split():
        with contextlib.suppress(ImportError):  # a Python built without lzma or bz2
            importlib.import_module(name)
    _make_randomness_repeat()
    # The service may hold many files, so this number may be high; below ZYGOTE_FILES all of ours are known.
    control = socket.socket(fileno=fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, 3))
    os.close(control_fd)
    try:
        readable = _import_libraries(libraries, search)
        _become_nobody([os.__file__, *readable])
        seal = Seal.prepare(readable, insecure=insecure)
    except (OSError, LookupError, ImportError) as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    if seal.ruleset is not None:  # out of the way of the descriptors that a child gets
        seal = replace(seal, ruleset=fcntl.fcntl(seal.ruleset, fcntl.F_DUPFD_CLOEXEC, ZYGOTE_FILES // 2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (ZYGOTE_FILES, ZYGOTE_FILES))
    facts = {"landlock": landlock_abi(), "seccomp": seal.filter is not None, "uid": os.getuid()}
    control.send(json.dumps(facts).encode())
    # Frozen objects are not listed by gc in children, and forks don't copy pages for its bookkeeping.
    gc.disable()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(ConnectionError):  # the pool went away in the middle of a word
        while _serve_one(control, seal):
            pass


def _make_randomness_repeat() -> None:
    """Let what Python asks of the kernel's randomness (`os.urandom`, `secrets`, `uuid4`, numpy's fresh generators) be
    the same in every child: a verdict depends on the program and the test alone."""
    source = random.Random(0)
    os.urandom = random._urandom = sys.modules["posix"].urandom = source.randbytes  # type: ignore[attr-defined]


def _import_libraries(libraries: list[str], search: list[str]) -> list[str]:
    """Import `libraries`, so that no child pays for it; the files and folders of all that came with them.

    Raises:
        ImportError: one of them is not installed.
    """
    before = set(sys.modules)
    own = sys.path[:]
    os.environ.update(ONE_THREAD)
    sys.path.extend(search)
    for name in libraries:
        importlib.import_module(name)
    sys.path[:] = own
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    if "numpy" in sys.modules:
        importlib.import_module("numpy.random").seed(0)  # a verdict depends on the program and the test alone
    names = {loaded.partition(".")[0] for loaded in set(sys.modules) - before} - {"pmd"}
    found = []
    for folder in search:
        for name in names:
            file = getattr(sys.modules.get(name), "__file__", None) or ""
            if file.startswith(f"{folder}/"):
                found += [file.removesuffix("/__init__.py"), f"{folder}/{name}.libs"]
    return [path for path in found if Path(path).exists()]


def _become_nobody(needed: list[str]) -> None:
    """Leave root when what children read can be read without it; a child may still import lazily."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(PermissionError):  # root in name only: a container that dropped CAP_SETUID
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        readable = all(os.access(path, os.R_OK, effective_ids=True) for path in needed)
        os.seteuid(0)
        os.setegid(0)
        if readable:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)


def _serve_one(control: socket.socket, seal: Seal) -> bool:
    """Fork one child and see it to its end; False when the pool has gone."""
    message, descriptors, _, _ = socket.recv_fds(control, SPAWN.size, CHILD_FDS)
    if not message:
        return False
    memory, cpu_s = SPAWN.unpack(message)
    try:
        pid = os.fork()
    except OSError as error:
        for fd in descriptors:
            os.close(fd)
        control.send(REFUSED + str(error).encode())
        return True
    if pid == 0:
        _child(seal, descriptors, memory, cpu_s)
    for fd in descriptors:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    try:
        socket.send_fds(control, [STARTED], [pidfd])
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(control, 0)  # hang-up only: the pool is silent until the child has ended
        if any(fd != pidfd for fd, _ in poller.poll()):
            return False
        queued_s = _queued_s(pid)
        _, status, usage = os.wait4(pid, 0)
    finally:
        os.close(pidfd)
    control.send(ENDED + STATUS.pack(status, usage.ru_utime, usage.ru_stime, queued_s, usage.ru_maxrss))
    return True


def _queued_s(pid: int) -> float:
    """Seconds that an ended, unreaped child waited for a CPU; 0 where the kernel does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _child(seal: Seal, descriptors: list[int], memory: int, cpu_s: int) -> None:
    try:
        result_fd = descriptors[harness.RESULT_FD]
        try:
            seal.apply(descriptors, memory=memory, cpu_s=cpu_s)
            result_fd = harness.RESULT_FD
            os.write(result_fd, SEALED)
        except OSError as error:
            os.write(result_fd, str(error).encode())
            os._exit(1)
        harness.run()
    except MemoryError:
        harness.leave(harness.SPEECHLESS)
    finally:
        harness.leave(1)  # whatever goes wrong, a child never returns into the zygote's loop
