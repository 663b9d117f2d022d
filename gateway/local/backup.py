"""Backups of an installation: runs, memory, artifacts and training state, of one moment, while runs go on.

    DIR/backup.json      what it is of, and the SHA-256 of each file; written last
    DIR/registry         the run registry: `registry.db`, or a folder of Postgres's tables
    DIR/ledger           the memory ledger, unless it is in the registry's Postgres
    DIR/published.db     which weights the rollout service serves
    DIR/spools/          training steps and checkpoints
    DIR/runs/            artifacts

Invariants:
- The moment is held by a lock on the registry. A phase is noted there before its job is submitted and after its effects
  are there, so nothing begins meanwhile, and what is under way looks as after a kill -9, which every service survives.
- Within it everything is fixed and nothing is copied: databases by a snapshot, files by hard links. Files are written
  once, by rename, so a link keeps what was there, also when the name goes. Spools come before artifacts: a step's
  result is the last thing that it writes.
- Jobs, indexes and vectors are not in it: they are made again. Nor is a secret.
- A folder is a backup when it has its name; a restored installation has its registry last.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pmd.gateway.local.dumps import (
    LOCK_PATIENCE_S,
    BackupError,
    Copy,
    file_of,
    fill,
    frozen,
    holds_nothing,
    make_tables,
    same_server,
    server,
    shown,
)
from pmd.gateway.local.supervisor import hold

FORMAT = 2
MANIFEST = "backup.json"
PASSING = frozenset({"lock", "process.json"})
"""Files of a spool that say which process of this moment has it."""
MARK = ".backup"
"""Folder of links, while the moment is held."""
NOT_OURS = frozenset({MARK, "lost+found"})
"""What may lie in a folder without anybody's having used it."""


@dataclass(frozen=True)
class Places:
    """Where an installation keeps what a backup holds."""

    state_dir: Path
    registry: str
    """SQLAlchemy URL."""
    ledger: str
    """SQLAlchemy URL."""
    runs: Path

    @classmethod
    def of(cls, state_dir: Path, environment: Mapping[str, str]) -> Places:
        """The places of the installation that `pmd up` starts from this environment, or that the chart made.

        Raises:
            BackupError: artifacts are in no folder.
        """
        runs = environment.get("PMD_DATA_URI") or f"file://{state_dir / 'runs'}"
        if not runs.startswith("file://"):
            raise BackupError(f"artifacts are at {runs}, which is no folder: back that up with the store's own tools")
        return cls(
            state_dir,
            environment.get("PMD_DATABASE_URL") or f"sqlite:///{state_dir / 'gateway' / 'registry.db'}",
            environment.get("PMD_MEMORY_DATABASE_URL") or f"sqlite:///{state_dir / 'memory' / 'ledger.db'}",
            Path(runs.removeprefix("file://")),
        )

    @property
    def published(self) -> Path:
        """What the rollout service serves."""
        return self.state_dir / "rollout" / "published.sqlite"

    @property
    def spools(self) -> Path:
        """What the trainer works in."""
        return self.state_dir / "trainer" / "runs"


# ------------------------------------------------------------ backing up


def backup(places: Places, to: Path) -> dict[str, int]:
    """Copy the installation of this moment into the folder `to`, which is made.

    Returns:
        How many files and bytes it holds, and for how many milliseconds runs could begin nothing.

    Raises:
        BackupError: `to` is there, or there is no installation.
    """
    if to.exists():
        raise BackupError(f"{to} is there already; a backup has a folder of its own")
    if (file := file_of(places.registry)) is not None and not file.exists():
        raise BackupError(f"there are no runs in {places.state_dir}: {file} is not there")
    part = to.with_name(f"{to.name}.part")
    with ExitStack() as stack:
        stack.enter_context(_alone(places))
        shutil.rmtree(part, ignore_errors=True)  # of a backup that was cut short
        part.mkdir(mode=0o700, parents=True)
        copies: list[Copy] = []
        with _nothing_begins(places.registry):
            began = time.monotonic()
            copies.append(stack.enter_context(frozen(places.registry, "registry")))
            if not same_server(places.registry, places.ledger):
                copies.append(stack.enter_context(frozen(places.ledger, "ledger")))
            copies.append(stack.enter_context(frozen(f"sqlite:///{places.published}", "published")))
            spools = stack.enter_context(_linked(places.spools))
            runs = stack.enter_context(_linked(places.runs))
            held_ms = round(1000 * (time.monotonic() - began))
        for copy in copies:
            copy(part)
        shutil.copytree(spools, part / "spools", symlinks=True)
        shutil.copytree(runs, part / "runs", symlinks=True)
    files = {str(path.relative_to(part)): _sha256(path) for path in sorted(_files(part))}
    size = sum((part / name).lstat().st_size for name in files)
    manifest = {"format": FORMAT, "created": time.time(), "runs": str(places.runs), "files": files}
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1))
    part.rename(to)
    return {"files": len(files), "bytes": size, "held_ms": held_ms}


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    """One backup at a time; the lock is on a disk that whoever makes one has."""
    places.spools.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (places.spools.parent / "backup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup of {places.runs} is being made; wait for it") from None
        yield


@contextmanager
def _nothing_begins(url: str) -> Iterator[None]:
    """Hold off whoever writes to the registry."""
    if (file := file_of(url)) is not None:
        with closing(sqlite3.connect(file, timeout=LOCK_PATIENCE_S, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield
        return
    with server(url) as db:
        db.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE_S:.0f}s'"))
        db.execute(sa.text("LOCK TABLE runs, phases IN EXCLUSIVE MODE"))
        yield


@contextmanager
def _linked(folder: Path) -> Iterator[Path]:
    """The files of a folder as they are now: as links, or copies where its disk has no links."""
    # Links are made on one disk: beside the folder, or in it where it is a disk of its own.
    mark = folder / MARK if folder.is_mount() else folder.with_name(f".{folder.name}{MARK}")
    shutil.rmtree(mark, ignore_errors=True)  # of a backup that was killed
    mark.mkdir(mode=0o700, parents=True)
    try:
        for path in _files(folder):
            if path.name in PASSING or path.name.endswith(".tmp"):
                continue
            target = mark / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                try:
                    os.link(path, target, follow_symlinks=False)
                except PermissionError:  # a disk without links
                    shutil.copy2(path, target, follow_symlinks=False)
            except FileNotFoundError:
                continue  # its writer has renamed or removed it
        yield mark
    finally:
        shutil.rmtree(mark, ignore_errors=True)


# ------------------------------------------------------------ restoring


def restore(places: Places, source: Path) -> dict[str, int]:
    """Make an installation of the backup in `source`, where there is none, or one that has seen no run.

    Returns:
        How many files it holds.

    Raises:
        BackupError: `source` is no whole backup, or something is there already.
    """
    try:
        manifest = json.loads((source / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BackupError(f"{source} is no backup: {MANIFEST} can't be read: {error}") from error
    if manifest["format"] != FORMAT:
        raise BackupError(
            f"{source} was written by another release (format {manifest['format']}); restore it with that"
        )
    if manifest["runs"] != str(places.runs):
        raise BackupError(
            f"the backup's artifacts belong at {manifest['runs']}, and here they would be at {places.runs}: runs name"
            " their artifacts by full path, so restore with the state folder (or PMD_DATA_URI) that they were made with"
        )
    for name, known in manifest["files"].items():
        if not os.path.lexists(source / name) or _sha256(source / name) != known:
            raise BackupError(f"{source / name} is missing or was changed since the backup was made")
    made = not places.state_dir.exists()
    with hold(places.state_dir):
        if made:
            places.state_dir.chmod(0o700)
        databases = {"ledger": places.ledger, "registry": places.registry}
        for name, url in databases.items():
            if file_of(url) is None:
                make_tables(url, name)
        _nothing_is_there(places)
        for name, into in (("spools", places.spools), ("runs", places.runs)):
            if (source / name).is_dir():
                shutil.copytree(source / name, into, symlinks=True, dirs_exist_ok=True)
        # The registry comes last: what it names is there when services that run already see it.
        for name, url in {"published": f"sqlite:///{places.published}", **databases}.items():
            fill(url, source, name)
    return {"files": len(manifest["files"])}


def _nothing_is_there(places: Places) -> None:
    for folder in (places.runs, places.spools):
        if folder.is_dir() and any(path.name not in NOT_OURS for path in folder.iterdir()):
            raise BackupError(f"{folder} is not empty: restore where there is no installation, or move it away")
    for url in {places.registry, places.ledger}:
        if not holds_nothing(url):
            raise BackupError(f"{shown(url)} is there already: restore where there is no installation, or move it away")


# ------------------------------------------------------------ both


def _files(folder: Path) -> Iterator[Path]:
    """All files and links below a folder; what vanishes while it is walked is left out."""
    for root, folders, names in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name not in NOT_OURS]
        yield from (Path(root) / name for name in names)
        yield from (path for name in folders if (path := Path(root) / name).is_symlink())


def _sha256(path: Path) -> str:
    if path.is_symlink():
        return hashlib.sha256(str(path.readlink()).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
