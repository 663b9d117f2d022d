"""Backups: of one moment, whole or not there, put back only where nothing is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pmd.gateway.local import backup as backups
from pmd.gateway.local import dumps
from pmd.gateway.local.backup import Places, backup, restore
from pmd.gateway.local.dumps import BackupError
from pmd.gateway.registry.codes import spend
from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.schema import REGISTRY
from pmd.services.common.wire import Policy, Weights
from pmd.services.memory.ledger.schema import LEDGER
from pmd.services.memory.ledger.tables import ITEMS
from pmd.services.rollout.published import Published
from tests.gateway.cli.conftest import Pmd

ONE = pytest.param("one-postgres", marks=pytest.mark.slow)
"""Registry and ledger in one database: seldom, and what it does otherwise is little."""


@pytest.fixture(params=["sqlite", ONE, "two-postgres"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """An installation with a registry, a ledger, weights that are served, a spool and artifacts."""
    state = tmp_path / "state"
    environment: dict[str, str] = {}
    if request.param != "sqlite":
        server = request.getfixturevalue("postgres_database")
        registry = server()
        ledger = registry if request.param == "one-postgres" else server()
        environment = {"PMD_DATABASE_URL": registry, "PMD_MEMORY_DATABASE_URL": ledger}
    made = Places.of(state, environment)
    for folder in ("gateway", "memory", "rollout"):
        (state / folder).mkdir(parents=True)
    REGISTRY.open(made.registry).close()
    LEDGER.open(made.ledger).close()
    note(made.ledger, "'it is', ''so\"\n")
    if request.param != "sqlite":
        write(made.registry, "CREATE TABLE jobs(key TEXT)", "INSERT INTO jobs VALUES ('a')")
    Published(made.published)
    step = made.spools / "demo" / "steps" / "0000001"
    step.mkdir(parents=True)
    for path in (step / "result.json", step.parents[1] / "lock", step.parents[1] / "process.json", step / "x.tmp"):
        path.write_text(path.name)
    (made.runs / "demo").mkdir(parents=True)
    (made.runs / "demo" / "rollout.parquet").write_bytes(b"rows")
    (made.runs / "demo" / "base").symlink_to("/somewhere/else")
    return made


def write(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as db:
        for statement in statements:
            db.exec_driver_sql(statement)
    engine.dispose()


def note(url: str, text: str) -> None:
    """Write an item into a ledger; it is given the next number."""
    row = {column.name: 0 for column in ITEMS.columns if column.name != "number"} | {"pinned": True, "edited": False}
    engine = sa.create_engine(url)
    with engine.begin() as db:
        db.execute(sa.insert(ITEMS).values(row | {"text": text, "id": text}))
    engine.dispose()


def notes(url: str) -> list[tuple[int, str]]:
    """Number and text of every item."""
    engine = sa.create_engine(url)
    with engine.begin() as db:
        found = [(number, text) for number, text in db.execute(sa.select(ITEMS.c.number, ITEMS.c.text))]
    engine.dispose()
    return found


def empty(places: Places) -> None:
    """Lose all of it."""
    shutil.rmtree(places.state_dir)
    for url in {places.registry, places.ledger}:
        if url.startswith("postgresql"):
            write(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def test_what_is_lost_is_put_back(places: Places, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert backup(places, kept)["files"] == len(json.loads((kept / "backup.json").read_text())["files"])
    note(places.ledger, "written later")
    empty(places)
    restore(places, kept)
    assert notes(places.ledger) == [(1, "'it is', ''so\"\n")]
    note(places.ledger, "written anew")
    assert notes(places.ledger)[1:] == [(2, "written anew")], "numbers go on"
    assert (places.runs / "demo" / "rollout.parquet").read_bytes() == b"rows"
    assert str((places.runs / "demo" / "base").readlink()) == "/somewhere/else"
    found = {path.name for path in places.spools.rglob("*") if path.is_file()}
    assert found == {"result.json"}, "whose process it was is not kept"
    assert Published(places.published).desired() == {}
    opened = REGISTRY.open(places.registry)
    assert Registry(opened).count_by_status() == {}
    opened.close()
    if places.registry.startswith("postgresql"):
        engine = sa.create_engine(places.registry)
        with engine.begin() as db:
            assert not sa.inspect(db).has_table("jobs"), "jobs are done anew"
        engine.dispose()


def disk_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of `folder` has a link elsewhere."""
    plain = os.link

    def link(source: Path, target: Path, **options: Any) -> None:
        if folder in source.parents and folder not in target.parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        plain(source, target, **options)

    monkeypatch.setattr(backups.os, "link", link)


@pytest.mark.parametrize("places", ["sqlite"], indirect=True)
def test_a_disk_of_its_own_holds_the_links_to_its_files(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would be copied after the moment, and what had gone by then be missing."""
    disk_of_its_own(places.runs, monkeypatch)
    late: list[Path] = []
    monkeypatch.setattr(backups, "_copy_others", lambda _, paths, __: late.extend(paths))
    backup(places, tmp_path / "kept")
    assert late == []
    assert (tmp_path / "kept" / "runs" / "demo" / "rollout.parquet").read_bytes() == b"rows"
    assert not list(tmp_path.rglob("*.backup*")), "links are taken away"


def test_a_new_installation_that_runs_is_filled(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster's is: its tables and stores are there and empty, its folder of runs is a disk of its own, and a
    browser has signed in."""
    disk_of_its_own(places.runs, monkeypatch)
    kept = tmp_path / "kept"
    policy = Policy(run="demo", weights=Weights(version=3, uri="file:///v3", sha256="0" * 64))
    Published(places.published).publish(policy)
    backup(places, kept)
    assert not list(places.state_dir.rglob("*.backup*")), "links are taken away"
    if places.registry.startswith("sqlite"):
        with pytest.raises(BackupError, match="is not empty"):
            restore(places, kept)
        return
    empty(places)
    (places.runs / "lost+found").mkdir(parents=True)
    places.published.parent.mkdir(parents=True)
    open_already = Published(places.published)
    registry = REGISTRY.open(places.registry)
    assert spend(registry, "0" * 64, now=0.0, ends=60.0)
    registry.close()
    LEDGER.open(places.ledger).close()
    restore(places, kept)
    assert open_already.find("demo") == policy
    assert [text for _, text in notes(places.ledger)] == ["'it is', ''so\"\n"]
    assert (places.runs / "demo" / "rollout.parquet").read_bytes() == b"rows"
    with pytest.raises(BackupError, match="is not empty"):
        restore(places, kept)


@pytest.mark.parametrize("places", [ONE, "two-postgres"], indirect=True)
def test_a_dump_of_another_schema_is_refused(places: Places, tmp_path: Path) -> None:
    """A file of SQLite brings its schema along, and is upgraded when it is opened."""
    kept = tmp_path / "kept"
    write(places.registry, "UPDATE registry_version SET version_num = 'older'")
    backup(places, kept)
    empty(places)
    with pytest.raises(BackupError, match=r"is of schema \['older'\] \(registry_version\), and here it is"):
        restore(places, kept)
    opened = REGISTRY.open(places.registry)
    assert Registry(opened).count_by_status() == {}, "nothing was put there"
    opened.close()


def test_what_is_written_meanwhile_is_in_it_or_waits(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the moment is held nothing is noted in the registry; then it goes on, and the copy is the moment's."""
    noted: list[float] = []
    held: list[float] = []
    plain = backups._linked

    def note() -> None:
        row = "'r', 'r', 'base', 'queued', 'run', '', '', 0, 0, 0, 0, 0, 0, 0, 0"
        columns = "id, name, method, status, desired, recipe, inputs, step, steps, version, epoch, lease_until, due"
        write(places.registry, f"INSERT INTO runs({columns}, created, updated) VALUES ({row})")  # noqa: S608
        noted.append(time.monotonic())

    writer = threading.Thread(target=note)

    def slow(folder: Path, is_spool: Callable[[Path], bool]) -> object:
        if not writer.is_alive() and not held:
            writer.start()
            time.sleep(1.0)
            held.append(time.monotonic())
        return plain(folder, is_spool)

    monkeypatch.setattr(backups, "_linked", slow)
    backup(places, tmp_path / "kept")
    writer.join()
    assert noted[0] > held[0]
    empty(places)
    restore(places, tmp_path / "kept")
    opened = REGISTRY.open(places.registry)
    assert Registry(opened).count_by_status() == {}
    opened.close()


def test_files_that_go_while_they_are_copied_are_kept(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shutil.copytree

    def late(source: Path, *arguments: object, **options: object) -> object:
        shutil.rmtree(places.runs / "demo", ignore_errors=True)
        return plain(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(backups.shutil, "copytree", late)
    backup(places, tmp_path / "kept")
    assert (tmp_path / "kept" / "runs" / "demo" / "rollout.parquet").read_bytes() == b"rows"
    assert not list(places.state_dir.glob(".*.backup"))


def test_checkpoints_come_before_results_and_those_before_artifacts(places: Places, tmp_path: Path) -> None:
    """Also where the spool is with the run, as under TrainJobs: steps go on while files are linked."""
    step = (
        "spool/checkpoints/v0000002/rank0of1.pt",
        "spool/steps/0000001/result.json",
        "weights/v0002/model.safetensors",
    )
    for run in ("a", "z"):
        for name in step:
            (places.runs / run / name).parent.mkdir(parents=True)
            (places.runs / run / name).write_text(name)
    (places.spools / "demo" / "checkpoints" / "v0000001").mkdir(parents=True)
    (places.spools / "demo" / "checkpoints" / "v0000001" / "rank0of1.pt").write_text("state")
    for folder, is_spool in places.folders.values():
        files = [str(path) for path in backups._in_order(folder, is_spool)]
        assert sorted(files) == sorted(str(path) for path in backups._files(folder)), "each once"
        kinds = [next((n for n, kind in enumerate(("/checkpoints/", "/steps/")) if kind in file), 2) for file in files]
        spooled = [
            kind for kind, file in zip(kinds, files, strict=True) if "process.json" not in file and "lock" not in file
        ]
        assert spooled == sorted(spooled), files
    backup(places, tmp_path / "kept")
    assert all((tmp_path / "kept" / "runs" / "a" / name).read_text() == name for name in step)


@pytest.mark.parametrize("places", ["sqlite"], indirect=True)
def test_files_of_others_are_copied_after_the_moment(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No link can be made of them; copying them while nothing may begin would stop all runs for that long."""
    theirs = places.runs / "shared" / "model.bin"
    theirs.parent.mkdir()
    theirs.write_bytes(b"weights")
    (places.runs / ".hub").mkdir()
    (places.runs / ".hub" / "token").write_text("secret")
    plain, copied = os.link, shutil.copy2
    inside: list[bool] = []

    def link(source: Path, target: Path, **options: bool) -> None:
        if source == theirs:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        plain(source, target, **options)

    def copy(source: Path, *arguments: object, **options: object) -> object:
        if source == theirs:
            with closing(sqlite3.connect(places.state_dir / "gateway" / "registry.db", timeout=0)) as db:
                db.execute("BEGIN IMMEDIATE")  # fails while the moment is held
            inside.append(True)
        return copied(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(backups.os, "link", link)
    monkeypatch.setattr(backups.shutil, "copy2", copy)
    kept = tmp_path / "kept"
    backup(places, kept)
    assert inside == [True]
    assert (kept / "runs" / "shared" / "model.bin").read_bytes() == b"weights"
    assert "runs/shared/model.bin" in json.loads((kept / "backup.json").read_text())["files"]
    assert not (kept / "runs" / ".hub").exists(), "a cache, with a token"


@pytest.mark.parametrize("places", ["sqlite"], indirect=True)
def test_a_disk_without_links_is_copied(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(backups.os, "link", none)
    backup(places, tmp_path / "kept")
    assert (tmp_path / "kept" / "runs" / "demo" / "rollout.parquet").read_bytes() == b"rows"


@pytest.mark.parametrize("places", ["sqlite"], indirect=True)
def test_the_roots_of_volumes_are_left_as_they_are(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod they are root's: its rights and times can't be set, whatever may be written below."""
    kept = tmp_path / "kept"
    backup(places, kept)
    empty(places)
    places.runs.mkdir(parents=True)
    places.spools.mkdir(parents=True)
    for name in ("chmod", "utime"):
        plain = getattr(os, name)

        def refuse(path: object, *arguments: object, plain: Callable[..., object] = plain, **options: object) -> object:
            if path in {places.runs, places.spools, str(places.runs), str(places.spools)}:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            return plain(path, *arguments, **options)

        monkeypatch.setattr(os, name, refuse)
    restore(places, kept)
    assert (places.runs / "demo" / "rollout.parquet").read_bytes() == b"rows"


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", ["file", "published", "ledger", "registry"])
def test_a_restore_that_was_cut_short_goes_on(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    kept, other = tmp_path / "kept", tmp_path / "other"
    backup(places, kept)
    time.sleep(0.01)
    backup(places, other)
    empty(places)
    plain, noted = backups._copy, backups._note

    def copy(path: Path, target: Path) -> None:
        plain(path, target)
        if after == "file":
            raise KilledError

    def note(mark: Path, source: Path, filled: list[str]) -> None:
        noted(mark, source, filled)
        if filled[-1:] == [after]:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(backups, "_copy", copy)
        patch.setattr(backups, "_note", note)
        with pytest.raises(KilledError):
            restore(places, kept)
    with pytest.raises(BackupError, match="the restore of another backup was cut short here"):
        restore(places, other)
    restore(places, kept)
    assert notes(places.ledger) == [(1, "'it is', ''so\"\n")]
    assert (places.runs / "demo" / "rollout.parquet").read_bytes() == b"rows"
    assert not (places.runs / ".restoring").exists()


@pytest.mark.parametrize("places", [ONE, "two-postgres"], indirect=True)
def test_what_is_written_while_it_is_restored_is_seen_or_waits(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    backup(places, kept)
    empty(places)
    LEDGER.open(places.ledger).close()
    plain = dumps._advance_sequences
    waited: list[str] = []

    def late(connection: sa.Connection, table: sa.Table) -> None:
        plain(connection, table)
        if table.name == ITEMS.name:
            try:
                write(places.ledger, "SET lock_timeout = '200ms'", "DELETE FROM items")
            except sa.exc.OperationalError as error:
                waited.append(str(error.orig))

    with monkeypatch.context() as patch:
        patch.setattr(dumps, "_advance_sequences", late)
        patch.setattr(backups, "_nothing_is_there", lambda _: note(places.ledger, "a person's"))
        with pytest.raises(BackupError, match=r"is there already, table items has rows"):
            restore(places, kept)
        assert [text for _, text in notes(places.ledger)] == ["a person's"], "and is left as it was"
        write(places.ledger, "DELETE FROM items")
        restore(places, kept)
    assert "lock timeout" in waited[0]


@pytest.mark.parametrize("places", ["two-postgres"], indirect=True)
def test_of_two_schemas_in_one_postgres_each_is_kept(places: Places, tmp_path: Path) -> None:
    """Two URLs of one database need not lead to one schema."""
    write(places.registry, "CREATE SCHEMA memory", "CREATE SCHEMA nothing")
    apart = replace(places, ledger=f"{places.registry}?options=-csearch_path%3Dmemory")
    LEDGER.open(apart.ledger).close()
    note(apart.ledger, "in a schema of its own")
    assert dumps.same_database(places.registry, places.registry.replace("127.0.0.1", "localhost"))
    kept = tmp_path / "kept"
    backup(apart, kept)
    empty(places)
    write(places.registry, "DROP SCHEMA memory CASCADE", "CREATE SCHEMA memory")
    restore(apart, kept)
    assert [text for _, text in notes(apart.ledger)] == ["in a schema of its own"]
    wrong = replace(places, ledger=f"{places.registry}?options=-csearch_path%3Dnothing,public")
    with pytest.raises(BackupError, match="there are no tables of the ledger in schema nothing of"):
        backup(wrong, tmp_path / "wrong")
    nowhere = replace(places, ledger=f"{places.registry}?options=-csearch_path%3Dgone")
    with pytest.raises(BackupError, match="its search_path names no schema that is there"):
        backup(nowhere, tmp_path / "nowhere")


def test_a_backup_is_whole_or_not_there(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backups, "_sha256", full)
        with pytest.raises(OSError, match="No space left"):
            backup(places, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    backup(places, tmp_path / "kept")
    with pytest.raises(BackupError, match="is there already"):
        backup(places, tmp_path / "kept")


def test_a_restore_changes_nothing_that_is_there(places: Places, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    backup(places, kept)
    with pytest.raises(BackupError, match="is not empty: restore where there is no installation"):
        restore(places, kept)
    shutil.rmtree(places.runs)
    shutil.rmtree(places.spools)
    with pytest.raises(BackupError, match=r"is there already: restore where there is no installation"):
        restore(places, kept)
    elsewhere = Places(tmp_path / "b", f"sqlite:///{tmp_path}/b/r.db", f"sqlite:///{tmp_path}/b/l.db", tmp_path / "b")
    with pytest.raises(BackupError, match="runs name their artifacts by full path"):
        restore(elsewhere, kept)
    empty(places)
    (kept / "runs" / "demo" / "rollout.parquet").write_bytes(b"rot")
    with pytest.raises(BackupError, match=r"rollout\.parquet is missing or was changed"):
        restore(places, kept)


def test_what_is_no_backup_is_named(tmp_path: Path) -> None:
    places = Places.of(tmp_path / "state", {})
    with pytest.raises(BackupError, match=r"is no backup: backup\.json can't be read"):
        restore(places, tmp_path)
    with pytest.raises(BackupError, match="there are no runs in"):
        backup(places, tmp_path / "kept")
    with pytest.raises(BackupError, match="which is no folder"):
        Places.of(tmp_path, {"PMD_DATA_URI": "s3://bucket/runs"})


def test_the_command_says_what_it_did_and_what_is_wrong(tmp_path: Path, own_environment: None, pmd: Pmd) -> None:
    state = tmp_path / "state"  # as the fixture `pmd` has it
    (state / "gateway").mkdir(parents=True)
    REGISTRY.open(f"sqlite:///{state}/gateway/registry.db").close()
    kept = str(tmp_path / "kept")
    made = pmd("backup", kept)
    assert (made.exit_code, "1 files" in made.output) == (0, True), made.output
    refused = pmd("restore", kept)
    assert (refused.exit_code, "is there already" in refused.stderr) == (1, True), refused.output
    shutil.rmtree(state)
    assert pmd("restore", kept).exit_code == 0
    with closing(sqlite3.connect(state / "gateway" / "registry.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM runs").fetchone() == (0,)


def test_in_a_pod_addresses_are_files(
    tmp_path: Path, own_environment: None, pmd: Pmd, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "PMD_DATABASE_URL").write_text(f"sqlite:///{tmp_path}/away.db\n")
    monkeypatch.setenv("PMD_SECRETS_DIR", str(secrets))
    assert "away.db is not there" in pmd("backup", str(tmp_path / "kept")).stderr
    monkeypatch.setenv("PMD_SECRETS_DIR", str(tmp_path / "nowhere"))
    assert "nowhere can't be read" in pmd("backup", str(tmp_path / "kept")).stderr
