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
  once, by rename, so a link keeps what was there, also when the name goes. What can't be linked because it is another
  user's, or on a disk of its own, is none of our processes': it is copied after the moment.
- Job processes go on meanwhile, so the order counts: a step writes its weights, then a due checkpoint, then its result,
  and with the last result checkpoints go. Linked are checkpoints, then the rest of the spools, then artifacts: what a
  result names is in the backup, and a checkpoint that was being removed has the last result behind it.
- Jobs, indexes and vectors are not in it: they are made again. Nor is a secret, nor the hub's cache.
- A folder is a backup when it has its name; a restored installation has its registry last. A restore that was cut short
  has left a mark, by which the same restore goes on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    same_database,
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
RESTORING = ".restoring"
"""Mark in the folder of runs, while a backup is restored: which, and the databases that are filled."""
NOT_OURS = frozenset({MARK, RESTORING, ".hub", "lost+found"})
"""What may lie in a folder without anybody's having used it. The hub's cache may: runs have links into it."""
CHECKPOINTS = "checkpoints"
"""Folder of a spool."""
NO_LINK = frozenset({errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a system says of a file that can't be linked, or of a disk without links."""


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

    @property
    def folders(self) -> dict[str, tuple[Path, Callable[[Path], bool]]]:
        """By its name in a backup, each folder and what tells a spool in it; those of TrainJobs are with the runs."""
        return {
            "spools": (self.spools, lambda path: path.parent == self.spools),
            "runs": (self.runs, lambda path: path.name == "spool" and path.parent.parent == self.runs),
        }


# ------------------------------------------------------------ backing up


def backup(places: Places, to: Path) -> dict[str, int]:
    """Copy the installation of this moment into the folder `to`, which is made.

    Returns:
        How many files and bytes it holds, and for how many milliseconds runs could begin nothing.

    Raises:
        BackupError: `to` is there, there is no installation, or a file of it can't be read.
    """
    if to.exists():
        raise BackupError(f"{to} is there already; a backup has a folder of its own")
    if (file := file_of(places.registry)) is not None and not file.exists():
        raise BackupError(f"there are no runs in {places.state_dir}: {file} is not there")
    part = to.with_name(f"{to.name}.part")
    with ExitStack() as stack:
        stack.enter_context(_alone(places))
        one = same_database(places.registry, places.ledger)
        shutil.rmtree(part, ignore_errors=True)  # of a backup that was cut short
        part.mkdir(mode=0o700, parents=True)
        copies: list[Copy] = []
        with _nothing_begins(places.registry):
            began = time.monotonic()
            if one:
                copies.append(stack.enter_context(frozen(places.registry, "registry", "ledger")))
            else:
                copies.append(stack.enter_context(frozen(places.registry, "registry")))
                copies.append(stack.enter_context(frozen(places.ledger, "ledger")))
            copies.append(stack.enter_context(frozen(f"sqlite:///{places.published}", "published")))
            linked = {name: stack.enter_context(_linked(*folder)) for name, folder in places.folders.items()}
            held_ms = round(1000 * (time.monotonic() - began))
        for copy in copies:
            copy(part)
        for name, (links, others) in linked.items():
            shutil.copytree(links, part / name, symlinks=True)
            _copy_others(places.folders[name][0], others, part / name)
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
def _linked(folder: Path, is_spool: Callable[[Path], bool]) -> Iterator[tuple[Path, list[Path]]]:
    """The files of a folder as they are now: as links, or copies where its disk has no links; and those that are not
    among them, because they are of other users or on disks of their own."""
    mark, has_links = _make_mark(folder)
    others: list[Path] = []
    try:
        for path in _in_order(folder, is_spool):
            if path.name in PASSING or path.name.endswith(".tmp"):
                continue
            target = mark / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                try:
                    os.link(path, target, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
                    if has_links:
                        others.append(path)
                    else:
                        shutil.copy2(path, target, follow_symlinks=False)
            except FileNotFoundError:
                continue  # its writer has renamed or removed it
        yield mark, others
    finally:
        shutil.rmtree(mark, ignore_errors=True)


def _in_order(folder: Path, is_spool: Callable[[Path], bool]) -> Iterator[Path]:
    """The files of a folder, as the order of a step's writes wants them."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    spools = [path for path in found if is_spool(path) and path.name not in NOT_OURS and path.is_dir()]
    for spool in spools:
        yield from _files(spool / CHECKPOINTS)
    for spool in spools:
        yield from _files(spool, lambda path: path.name == CHECKPOINTS and is_spool(path.parent))
    yield from _files(folder, is_spool)


def _make_mark(folder: Path) -> tuple[Path, bool]:
    """An empty folder for links to the files of `folder`, and whether they can be made: beside it, or in it where it is
    a disk of its own. The disks are asked, as paths don't tell."""
    inside = folder / MARK
    for mark in (folder.with_name(f".{folder.name}{MARK}"), inside):
        shutil.rmtree(mark, ignore_errors=True)  # of a backup that was killed
        with suppress(OSError):  # what is beside a volume may be nobody's to write
            mark.mkdir(mode=0o700, parents=True)
            if not folder.is_dir() or _can_link(folder, mark):
                return mark, True
            mark.rmdir()
    inside.mkdir(mode=0o700, parents=True)
    return inside, False


def _can_link(folder: Path, mark: Path) -> bool:
    """Whether files of a folder can have links in another."""
    one, other = folder / f"{MARK}.tmp", mark / "other"
    one.touch()
    try:
        os.link(one, other)
    except OSError:
        return False
    finally:
        other.unlink(missing_ok=True)
        one.unlink()
    return True


def _copy_others(folder: Path, paths: list[Path], into: Path) -> None:
    """Copy files that no link was made of; those that have gone are left out."""
    for path in paths:
        try:
            _copy(path, into / path.relative_to(folder))
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise BackupError(f"{path} can't be read: {error.strerror}; let this user, or move it elsewhere") from error


# ------------------------------------------------------------ restoring


def restore(places: Places, source: Path) -> dict[str, int]:
    """Make an installation of the backup in `source`, where there is none, or one that has seen no run.

    Returns:
        How many files it holds.

    Raises:
        BackupError: `source` is no whole backup, or something is there already.
    """
    manifest = _checked(source, places)
    made = not places.state_dir.exists()
    with hold(places.state_dir):
        if made:
            places.state_dir.chmod(0o700)
        mark = places.runs / RESTORING
        filled = _begun(mark, source)
        databases = {"ledger": places.ledger, "registry": places.registry}
        for name, url in databases.items():
            if file_of(url) is None:
                make_tables(url, name)
        if filled is None:
            _nothing_is_there(places)
        elif not holds_nothing(places.registry):
            if not {"published", "ledger"} <= set(filled):
                raise _is_there(shown(places.registry))
            filled.append("registry")  # the last: all is there but for the end of the mark
        _note(mark, source, filled := filled or [])
        for name, (folder, _) in places.folders.items():
            # File by file: the root of a volume is not ours, so neither its rights nor its times can be set.
            for path in _files(source / name):
                _copy(path, folder / path.relative_to(source / name))
        # The registry comes last: what it names is there when services that run already see it.
        for name, url in {"published": f"sqlite:///{places.published}", **databases}.items():
            if name not in filled:
                fill(url, source, name)
                filled.append(name)
                _note(mark, source, filled)
        mark.unlink()
    return {"files": len(manifest["files"])}


def _checked(source: Path, places: Places) -> dict[str, Any]:
    """The manifest of a backup that is whole and belongs here.

    Raises:
        BackupError: it is not, or does not.
    """
    try:
        manifest: dict[str, Any] = json.loads((source / MANIFEST).read_text())
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
    return manifest


def _begun(mark: Path, source: Path) -> list[str] | None:
    """The databases that a restore of this backup had filled when it was cut short; None when there was none.

    Raises:
        BackupError: it was of another backup.
    """
    try:
        begun = json.loads(mark.read_text())
    except FileNotFoundError:
        return None
    if begun["backup"] != _sha256(source / MANIFEST):
        raise BackupError(
            f"the restore of another backup was cut short here ({mark}): restore that one again, or remove what it has"
            " left in the state folder, the folder of runs and the databases"
        )
    filled: list[str] = begun["filled"]
    return filled


def _note(mark: Path, source: Path, filled: list[str]) -> None:
    """Mark the folder of runs as being restored."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    part = mark.with_name(f"{mark.name}.tmp")
    part.write_text(json.dumps({"backup": _sha256(source / MANIFEST), "filled": filled}))
    part.replace(mark)


def _is_there(what: str) -> BackupError:
    return BackupError(f"{what} is there already: restore where there is no installation, or move it away")


def _nothing_is_there(places: Places) -> None:
    for folder in (places.runs, places.spools):
        if folder.is_dir() and any(path.name not in NOT_OURS for path in folder.iterdir()):
            raise BackupError(f"{folder} is not empty: restore where there is no installation, or move it away")
    for url in {places.registry, places.ledger}:
        if not holds_nothing(url):
            raise _is_there(shown(url))


# ------------------------------------------------------------ both


def _files(folder: Path, without: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """All files and links below a folder; what vanishes while it is walked is left out, and so are folders of whose
    path `without` is true."""
    for here, folders, names in os.walk(folder):
        root = Path(here)
        skipped = NOT_OURS if root == folder else frozenset()
        folders[:] = [name for name in folders if name not in skipped and not without(root / name)]
        yield from (root / name for name in names if name not in skipped)
        yield from (path for name in folders if (path := root / name).is_symlink())


def _copy(path: Path, target: Path) -> None:
    """Copy a file or a link, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.tmp")
    part.unlink(missing_ok=True)  # of a copy that was cut short
    shutil.copy2(path, part, follow_symlinks=False)
    part.replace(target)


def _sha256(path: Path) -> str:
    if path.is_symlink():
        return hashlib.sha256(str(path.readlink()).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
