"""The ledger as its readers and its operators rely on it, on SQLite and on Postgres."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
import sqlalchemy as sa

from pmd.services.common.schema import SchemaTooNew
from pmd.services.memory.ledger import Filter, Item, Ledger, Transaction, fingerprint, reads
from pmd.services.memory.ledger.cursor import BadCursor
from pmd.services.memory.ledger.tables import AUDIT, ITEMS, META, WORDS
from tests.memory.world import Words, World

FIRST_RELEASE = """
CREATE TABLE banks (bank VARCHAR NOT NULL PRIMARY KEY, seq BIGINT NOT NULL);
CREATE TABLE writes (bank VARCHAR NOT NULL, key VARCHAR NOT NULL, PRIMARY KEY (bank, key));
CREATE TABLE problems (bank VARCHAR NOT NULL, problem_id VARCHAR NOT NULL, body TEXT NOT NULL,
 PRIMARY KEY (bank, problem_id));
CREATE TABLE items (bank VARCHAR NOT NULL, id VARCHAR NOT NULL, level VARCHAR NOT NULL, kind VARCHAR NOT NULL,
 scope VARCHAR NOT NULL, text TEXT NOT NULL, status VARCHAR NOT NULL, version INTEGER NOT NULL, seq BIGINT NOT NULL,
 step INTEGER NOT NULL, policy_version INTEGER NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (bank, id));
CREATE INDEX items_by_scope ON items (bank, level, status, scope);
CREATE INDEX items_by_seq ON items (bank, seq);
CREATE TABLE versions (bank VARCHAR NOT NULL, id VARCHAR NOT NULL, version INTEGER NOT NULL, seq BIGINT NOT NULL,
 step INTEGER NOT NULL, text TEXT NOT NULL, status VARCHAR NOT NULL, facts TEXT NOT NULL, actor VARCHAR NOT NULL,
 PRIMARY KEY (bank, id, version));
INSERT INTO banks VALUES ('b', 2);
INSERT INTO writes VALUES ('b', 's1.record');
INSERT INTO items VALUES ('b', 'x', 'experience', 'attempt', 'p0', 'Plan: rotate.', 'active', 1, 1, 1, 0,
 '{"rollout_id": "1:p0#0", "passed": true, "feedback": ""}');
INSERT INTO items VALUES ('b', 'i', 'insight', 'strategy', 'p0', 'rotate then add 3', 'active', 1, 2, 1, 0,
 '{"sources": ["1:p0#0"]}');
INSERT INTO versions VALUES ('b', 'i', 1, 2, 1, 'rotate then add 3', 'active', '{"sources": ["1:p0#0"]}', 'run@0')
"""


def note(text: str, scope: str = "p0", step: int = 1, **values: object) -> Item:
    made = Item(level="insight", kind="strategy", scope=scope, text=text, step=step, policy_version=0)
    return replace(made, **values)  # type: ignore[arg-type]


def write(ledger: Ledger, key: str, *items: Item) -> None:
    ledger.apply("b", key, lambda tx: tx.write(items, "run@1"))


def test_a_reader_that_polls_by_seq_misses_nothing_and_sees_the_newest_version(both: World) -> None:
    both.record(1, [(pid, "Plan: rotate.", True) for pid in ("p0", "p1", "p2")])
    both.reflect(1, Words(lambda _: "Strategy: rotate."), ["p0", "p1"])
    first = both.ledger.changes("b", 0, limit=1)
    assert [i.seq for i in first] == [1, 1, 1], "what one transaction changed is never cut in two"
    insights = both.ledger.changes("b", first[-1].seq, limit=100)
    assert {(i.level, i.status, i.seq) for i in insights} == {("insight", "active", 2)}
    both.ledger.apply("b", "k", lambda tx: tx.set_status(insights[:1], "retired", 2, "run@1"))
    (gone,) = both.ledger.changes("b", insights[-1].seq)
    assert (gone.id, gone.status, gone.version, gone.seq) == (insights[0].id, "retired", 2, 3)
    assert both.ledger.changes("b", gone.seq) == []


def test_seqs_become_visible_in_order_while_many_write(url: str) -> None:
    """A reader that goes on from the highest seq it has seen meets every item that was ever written."""
    ledgers = [Ledger(url) for _ in range(4)]
    done = threading.Event()

    def writer(n: int) -> None:
        for k in range(12):
            write(ledgers[n], f"{n}.{k}", note(f"note {n} {k}"))

    def reader() -> set[str]:
        seen: set[str] = set()
        after = 0
        while True:
            last = done.is_set()
            page = ledgers[3].changes("b", after, limit=3)
            if last and not page:
                return seen
            for item in page:
                assert item.seq >= after
                seen.add(item.text)
                after = item.seq

    with ThreadPoolExecutor(4) as pool:
        polled = pool.submit(reader)
        writers = [pool.submit(writer, n) for n in range(3)]
        wait(writers)
        done.set()
        for task in writers:
            task.result()
        assert polled.result() == {f"note {n} {k}" for n in range(3) for k in range(12)}
    assert ledgers[0].seq("b") == 36
    with ledgers[0].read() as db:
        assert db.scalars(sa.select(AUDIT.c.seq).order_by(AUDIT.c.seq)).all() == list(range(1, 37))


def test_an_older_ledger_is_upgraded_and_its_jobs_stay_done(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as db:
        for statement in FIRST_RELEASE.split(";"):
            db.exec_driver_sql(statement)
    ledger = Ledger(url)
    assert ledger.seq("b") == 2
    assert ledger.counts("b").model_dump(exclude={"edits"}) == {"seq": 2, "experience": 1, "insight": 1, "behavior": 0}
    assert {i.text for i in ledger.changes("b", 0)} == {"Plan: rotate.", "rotate then add 3"}
    with ledger.read() as db:
        assert [v.facts for v, _ in reads.history(db, "b", "i")] == [{"sources": ["1:p0#0"]}]
        assert [v.text for v, _ in reads.history(db, "b", "x")] == ["Plan: rotate."]
        assert [i.id for i in reads.page(db, "b", Filter(text="rotate add"))[0]] == ["i"], "search knows old items"
    ledger.apply("b", "s1.record", lambda _: pytest.fail("a job that was done is done again"))
    write(ledger, "s2", note("rotate then add 3", step=2, id="i"))


def test_a_fresh_ledger_has_the_tables_that_its_queries_expect(url: str) -> None:
    Ledger(url)
    engine = sa.create_engine(url)
    made = sa.MetaData()
    made.reflect(engine, only=list(META.tables))
    for name, table in META.tables.items():
        found = {(c.name, c.nullable) for c in made.tables[name].c}
        assert found == {(c.name, bool(c.nullable)) for c in table.c}, name


def test_a_newer_ledger_is_refused(url: str) -> None:
    Ledger(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(SchemaTooNew, match=r"'0999'.*start the newer release"):
        Ledger(url)


def test_replicas_that_start_together_make_one_schema(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(lambda _: Ledger(url), range(4)))
    for n, ledger in enumerate(ledgers):
        write(ledger, f"k{n}", note(f"from replica {n}"))
    assert len(ledgers[0].changes("b", 0)) == 4


def test_a_change_that_fails_leaves_no_trace(url: str) -> None:
    ledger = Ledger(url)
    write(ledger, "k1", note("stays"))

    def fails(tx: Transaction) -> None:
        tx.write([note("goes")], "run@1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ledger.apply("b", "k2", fails)
    assert (ledger.seq("b"), [i.text for i in ledger.changes("b", 0)]) == (1, ["stays"])


def test_pages_follow_each_other_in_each_order_and_words_are_found(url: str) -> None:
    ledger = Ledger(url)
    for n in range(7):
        write(ledger, f"k{n}", note(f"Rotate by {n}, then ADD-{n}", scope=f"p{n % 2}"))
    write(ledger, "other", note("reverse it"))
    with ledger.read() as db:
        for sort in ("newest", "oldest", "text"):
            seen: list[Item] = []
            after: str | None = ""
            while after is not None:
                part, after = reads.page(db, "b", Filter(text="add rot"), sort=sort, after=after, limit=3)
                seen += part
            keys = [i.text if sort == "text" else i.seq for i in seen]
            assert len({i.id for i in seen}) == 7
            assert keys == sorted(keys, reverse=sort == "newest")  # type: ignore[type-var]
        assert [i.scope for i in reads.page(db, "b", Filter(text="add", scope="p1"))[0]] == ["p1"] * 3
        assert reads.page(db, "b", Filter(text='"a* OR (')) == ([], None), "what people type is never syntax"
        with pytest.raises(BadCursor):
            reads.page(db, "b", Filter(), after="xyz")


def test_words_are_found_whatever_joins_them(url: str) -> None:
    ledger = Ledger(url)
    texts = ["use math.sqrt then add -3", "ratio 1/2 of a/b.txt", "cost 3.5 at Café", "say <answer>7</answer> & go_on"]
    write(ledger, "k", *map(note, texts))
    asked = [
        (["sqrt", "math.sqrt", "MATH", "add -3"], [0]),
        (["1/2", "b.txt", "txt", "2", "a/b"], [1]),
        (["3.5", "5", "cafe", "CAFÉ", "caf", "cafe\N{COMBINING ACUTE ACCENT}"], [2]),
        (["answer", "7</answer>", "on", "go_on", "answer go"], [3]),
        (["3", "-3"], [0, 2]),
        (["ath", "go math"], []),
    ]
    with ledger.read() as db:
        for questions, expected in asked:
            for text in questions:
                found = sorted(texts.index(i.text) for i in reads.page(db, "b", Filter(text=text))[0])
                assert found == expected, text


def test_postgres_looks_words_up_in_an_index(postgres_database: Callable[[], str]) -> None:
    ledger = Ledger(postgres_database())
    with ledger.read() as db:
        db.exec_driver_sql("SET enable_seqscan = off")
        query = sa.select(ITEMS.c.id).where(WORDS.bool_op("@@")(sa.text("'rotate'::tsquery")))
        plan = "".join(db.scalars(sa.text(f"EXPLAIN {query}")))
    assert "Bitmap Index Scan on items_by_words" in plan


def test_a_text_of_any_length_is_kept_and_found(url: str) -> None:
    ledger = Ledger(url)
    long = " ".join(f"{n:x}" for n in range(170_000))
    write(ledger, "k", note("rotate " + long), note("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 1_000_000))
    with ledger.read() as db:
        assert [len(i.text) for i in reads.page(db, "b", Filter(text="rotate"))[0]] == [len("rotate " + long)]


def test_pages_by_text_pass_one_with_a_nul(world: World) -> None:
    texts = ["a", "a\x00b", "a\x00c", "b"]
    write(world.ledger, "k", *map(note, texts))
    seen: list[str] = []
    after: str | None = ""
    with world.ledger.read() as db:
        while after is not None:
            part, after = reads.page(db, "b", Filter(), sort="text", after=after, limit=1)
            seen += [i.text for i in part]
    assert sorted(seen) == texts


def test_the_past_can_be_read_at_any_seq(url: str) -> None:
    ledger = Ledger(url)
    write(ledger, "k1", note("one"), note("two"))
    one = next(i for i in ledger.changes("b", 0) if i.text == "one")
    ledger.change("b", lambda tx: tx.put(replace(one, text="uno", edited=True), "person:ada", "edit"))
    with ledger.read() as db:
        assert [sorted(i.text for i in reads.at(db, "b", seq)) for seq in (0, 1, 2)] == [
            [],
            ["one", "two"],
            ["two", "uno"],
        ]


def test_the_same_text_is_the_same_whatever_its_case_spacing_and_final_stop() -> None:
    assert fingerprint("Rotate  first,\nthen ADD.") == fingerprint("rotate first, then add")
    assert fingerprint("rotate first, then add") != fingerprint("rotate first then add 1")
    assert fingerprint("+") != fingerprint("-")


def test_machine_writes_do_not_touch_what_people_settled(both: World) -> None:
    ledger = both.ledger
    write(ledger, "k1", note("pin me"), note("edit me"), note("ban me"), note("merge me"))
    items = {i.text: i for i in ledger.changes("b", 0)}

    def curate(tx: Transaction) -> None:
        tx.put(replace(items["pin me"], pinned=True), "person:ada", "pin")
        tx.put(replace(items["edit me"], text="edited", edited=True), "person:ada", "edit")
        tx.put(replace(items["ban me"], status="banned"), "person:ada", "ban")
        tx.put(replace(items["merge me"], status="superseded"), "person:ada", "merge")

    ledger.change("b", curate)
    after = {i.id: i for i in ledger.changes("b", 0)}
    for step in range(2, 6):
        key = f"s{step}"
        ledger.apply("b", key, lambda tx: tx.set_status(items.values(), "retired", 2, "run@1"))
        again = [note(text, step=step) for text in (*items, "BAN  me.", "Edited")]
        elsewhere = note("Ban me", scope="p1", step=step)
        write(ledger, f"{key}.write", *again, elsewhere)
    assert {i.id: i for i in ledger.changes("b", 0)} == after
    with ledger.read() as db:
        proposals = db.execute(sa.text("SELECT action, status FROM proposals WHERE bank = 'b'")).all()
        assert sorted(map(tuple, proposals)) == [("replace", "open"), ("retire", "open"), ("retire", "open")]
        assert db.scalar(sa.select(sa.func.count()).select_from(ITEMS)) == 4
