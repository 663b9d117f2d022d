"""The ledger as its readers rely on it."""

from __future__ import annotations

from tests.memory.conftest import Words, World


def test_a_reader_that_polls_by_seq_misses_nothing_and_sees_the_newest_version(world: World) -> None:
    world.record(1, [(pid, "Plan: rotate.", True) for pid in ("p0", "p1", "p2")])
    world.reflect(1, Words(lambda _: "Strategy: rotate."), ["p0", "p1"])
    first = world.ledger.changes("b", 0, limit=1)
    assert [i.seq for i in first] == [1, 1, 1], "what one transaction changed is never cut in two"
    insights = world.ledger.changes("b", first[-1].seq, limit=100)
    assert {(i.level, i.status, i.seq) for i in insights} == {("insight", "active", 2)}
    world.ledger.apply("b", "k", lambda tx: tx.set_status(insights[:1], "retired", 2, "person:ada"))
    (gone,) = world.ledger.changes("b", insights[-1].seq)
    assert (gone.id, gone.status, gone.version, gone.seq) == (insights[0].id, "retired", 2, 3)
    assert world.ledger.changes("b", gone.seq) == []
