"""A private Postgres cluster for tests, run by an ordinary user in a folder of its own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_number = itertools.count()


def missing() -> str | None:
    """What there is to install before a cluster can be started; None when nothing is."""
    if _binary("initdb") is None:
        return "no Postgres here; apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "no psycopg here; pip install 'pmd[postgres]'"
    return None


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def cluster() -> Iterator[Callable[[], str]]:
    """A running cluster; the function that it yields makes an empty database and returns its URL."""
    folder = Path(tempfile.mkdtemp(prefix="pmd-pg-"))
    user = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: str) -> None:
        name = _binary(command[0]) or command[0]
        # A server's descriptors must not be those of the test's pipes: it would never be seen to end.
        subprocess.run(
            [name, *command[1:]],
            user=user.pw_uid if os.geteuid() == 0 else None,
            group=user.pw_gid if os.geteuid() == 0 else None,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=60"
    try:
        run("initdb", "-D", data, "-U", "pmd", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")

        def create() -> str:
            name = f"bank{next(_number)}"
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "pmd", name)
            return f"postgresql+psycopg://pmd@127.0.0.1:{port}/{name}"

        try:
            yield create
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
