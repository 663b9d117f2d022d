"""The small SQLite file that the job store, the published policies and the vectors are kept in."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from pmd.services.common.store import Store

TABLES = "CREATE TABLE IF NOT EXISTS notes(name TEXT PRIMARY KEY, text TEXT);"


def test_what_was_changed_is_there_for_the_next_process(tmp_path: Path) -> None:
    first = Store(tmp_path / "s.db", TABLES)
    assert first.change("INSERT INTO notes VALUES(?,?)", "a", "one") == 1
    assert first.change("UPDATE notes SET text='two' WHERE name='b'") == 0
    second = Store(tmp_path / "s.db", TABLES)
    assert second.rows("SELECT * FROM notes") == [("a", "one")]
    assert second.row("SELECT text FROM notes WHERE name=?", "b") is None


def test_a_transaction_that_fails_is_undone_and_the_next_one_can_begin(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", TABLES)
    store.change("INSERT INTO notes VALUES('a','one')")
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as db:
        db.executemany("INSERT INTO notes VALUES(?,?)", [("b", "two"), ("a", "three")])
    with store.transaction() as db:
        db.execute("INSERT INTO notes VALUES('c','four')")
    assert store.rows("SELECT name FROM notes ORDER BY name") == [("a",), ("c",)]


def test_threads_take_turns(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db", TABLES)

    def write(n: int) -> None:
        for k in range(20):
            with store.transaction() as db:
                db.execute("INSERT INTO notes VALUES(?,?)", (f"{n}.{k}", ""))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.row("SELECT count(*) FROM notes") == (80,)
