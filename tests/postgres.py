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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_number = itertools.count()
TRIES = 5


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


class Cluster:
    """A cluster in a folder, as an ordinary user runs it. It lets in `pmd`, and `sealed` with a password."""

    def __init__(self, folder: Path, user: pwd.struct_passwd) -> None:
        self.port = 0
        self._folder, self._user, self._data = folder, user, str(folder / "data")

    def __call__(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"bank{next(_number)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "pmd", name)
        return self.url(name)

    def url(self, database: str, user: str = "pmd") -> str:
        """Of a database, whether it is there or not."""
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Make the cluster's files."""
        self._run("initdb", "-D", self._data, "-U", "pmd", "-A", "trust", "-E", "UTF8", "--no-sync")
        rules = self._folder / "data" / "pg_hba.conf"
        rules.write_text("host all sealed 127.0.0.1/32 scram-sha-256\n" + rules.read_text())

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", str(self._folder / "log"), "-w", "start")

    def begin(self) -> None:
        """Start it for the first time, at a port of its own.

        Raises:
            RuntimeError: it does not start; with its log.
        """
        for _ in range(TRIES):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            with suppress(subprocess.CalledProcessError):  # another process has taken the port meanwhile
                return self.start()
        raise RuntimeError(f"Postgres does not start: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it, as a crash does."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def _run(self, *command: str) -> None:
        program = _binary(command[0]) or command[0]
        # A program changes the user, and not the child that Python forks: a process that has mapped more than the
        # machine's memory, as ours has after thousands of tests, may not be forked.
        user = self._user
        to = (
            ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            if os.geteuid() == 0
            else []
        )
        # A server's descriptors must not be those of the test's pipes: it would never be seen to end.
        subprocess.run(
            [*to, program, *command[1:]],
            cwd=self._folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster."""
    folder = Path(tempfile.mkdtemp(prefix="pmd-pg-"))
    user = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    made = Cluster(folder, user)
    try:
        made.make()
        made.begin()
        try:
            yield made
        finally:
            with suppress(subprocess.CalledProcessError):  # a test has stopped it
                made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
