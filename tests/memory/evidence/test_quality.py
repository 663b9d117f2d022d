"""The quality controls: small claims about pure functions, and each of them on through the jobs."""

from __future__ import annotations

from dataclasses import replace

from pmd.services.common.options import QualitySettings
from pmd.services.common.requests import RecordRequest
from pmd.services.memory.evidence.bank import mean_rewards
from pmd.services.memory.evidence.quality import disagree, held_out, same, surplus, without_duplicates
from pmd.services.memory.write.record import record
from tests.memory.ledger.test_ledger import note, write
from tests.memory.world import Words, World


def test_the_same_thought_is_known_in_other_spelling_and_contradictions_never_are() -> None:
    assert same("Rotate, then add 3", "rotate,  then ADD 3.")
    assert not same("rotate then add 3", "rotate then add 3 to each")
    assert same("rotate then add 3", "rotate, then add 3 each", near=0.7)
    assert not same("rotate then add 3", "rotate then add 4", near=0.5), "other numbers are another claim"
    assert not same("rotate then add 3", "do not rotate then add 3", near=0.5), "so is a negation"
    assert disagree("Never sort first.", "Sort first.")
    assert not disagree("Sort first.", "First of all, sort.")


def test_what_stood_before_keeps_its_words() -> None:
    assert without_duplicates(["ROTATE.", "add", "Add "], ["rotate"]) == ("rotate", "add")


def test_eviction_takes_the_least_confirmed_first_and_spares_what_people_hold() -> None:
    items = [note("a", step=3), note("b", step=1), note("c", step=2), note("d", step=0, edited=True)]
    assert [i.text for i in surplus(items, 2)] == ["b", "c"]
    assert surplus(items, 0) == []
    assert [i.text for i in surplus(items, 4)] == ["b", "c", "a"]


def test_holding_out_is_reproducible_and_as_rare_as_asked() -> None:
    out = [held_out(step, f"p{n}", "i", 0.1) for step in range(100) for n in range(20)]
    assert 0.07 < sum(out) / len(out) < 0.13
    assert out == [held_out(step, f"p{n}", "i", 0.1) for step in range(100) for n in range(20)]
    assert not any(held_out(s, "p", "i", 0.0) for s in range(50))


def record_with(world: World, step: int, **quality: object) -> None:
    rollouts, verdicts = world.batch(step, [("p0", "Plan: rotate.", True)])
    request = RecordRequest(
        bank="b",
        step=step,
        rollouts=rollouts,
        verdicts=verdicts,
        problems=world.problems_ref,
        quality=QualitySettings(**quality),  # type: ignore[arg-type]
        outcomes=verdicts,
        outcomes_step=step,
    )
    record(world.ledger, request, world.job(f"s{step}.record"))


def test_law_5_a_note_is_not_blamed_for_attempts_that_nobody_could_judge(world: World) -> None:
    _, verdicts = world.batch(1, [("p0", "a", True), ("p0", "b", None), ("p1", "c", None)])
    assert mean_rewards(verdicts) == {"p0": 1.0}


def test_a_stale_note_is_retired_only_when_the_recipe_says_so(world: World) -> None:
    write(world.ledger, "k", note("old"), note("pinned", pinned=True))
    record_with(world, 9)
    assert len(world.ledger.active("b", "insight")) == 2
    record_with(world, 10, stale_after=5)
    assert [i.text for i in world.ledger.active("b", "insight")] == ["pinned"]


def test_a_bank_keeps_as_many_notes_as_the_recipe_says(world: World) -> None:
    write(world.ledger, "k", note("old"), note("newer", step=1), note("pinned", pinned=True), note("new", step=3))
    write(world.ledger, "l", note("unsupported", step=2), note("supported", step=2, facts={"passes": 3}))
    record_with(world, 4, max_notes=6)
    assert len(world.ledger.active("b", "insight")) == 6
    record_with(world, 5, max_notes=4)
    assert {i.text for i in world.ledger.active("b", "insight")} == {"pinned", "supported", "unsupported", "new"}
    record_with(world, 6, max_notes=2, stale_after=3)
    assert {i.text for i in world.ledger.active("b", "insight")} == {"pinned", "new"}, "a stale one goes anyway"


def test_a_harmful_note_is_quarantined_and_does_not_come_back_by_itself(world: World) -> None:
    from pmd.services.common.wire import Ref
    from pmd.services.memory.ledger import Use

    write(world.ledger, "k", note("bad", scope="p0"), note("good", scope="p0"))
    bad, good = sorted(world.ledger.active("b", "insight"), key=lambda i: i.text)
    nowhere = Ref(uri="file:///none", sha256="", bytes=0)
    for step in range(1, 21):
        shown = step % 2 == 0
        uses = [Use("p0", bad.id, 1, 1.0, 1.0, shown), Use("p0", good.id, 1, 1.0, 1.0, shown=step % 4 < 2)]
        world.ledger.note_contexts("b", f"j{step}", step, 1, nowhere, uses)
        reward = 0.0 if shown else 1.0
        world.ledger.apply("b", f"r{step}", lambda tx, s=step, r=reward: tx.reward(s, {"p0": r}))
    record_with(world, 29, hold_out=0.1, max_notes=9)
    assert len(world.ledger.active("b", "insight")) == 2, "measured, and not yet condemned: the recipe does not ask"
    world.ledger.note_contexts("b", "j30", 30, 1, nowhere, [Use("p0", bad.id, 1, 1.0, 1.0, shown=False)])
    record_with(world, 30, hold_out=0.1, quarantine=True)
    assert [i.text for i in world.ledger.active("b", "insight")] == ["good"]
    held = world.ledger.item("b", bad.id)
    assert held is not None
    assert held.facts["harm"].startswith("lowers the reward by 0.91 (0.68 to 0.97)")
    write(world.ledger, "again", replace(note("bad", scope="p0"), step=31))
    assert [i.text for i in world.ledger.active("b", "insight")] == ["good"]


def test_a_held_out_note_is_not_shown_and_is_noted(world: World) -> None:
    from pmd.services.common.options import ContextSettings
    from pmd.services.common.requests import RetrieveRequest
    from pmd.services.memory.ledger.tables import USES
    from pmd.services.memory.retrieve.contexts import retrieve
    from tests.memory.world import PROMPTS

    world.record(1, [(pid, "Plan: rotate then add 3.", True) for pid in world.problems])
    world.reflect(1, Words(lambda _: "Strategy: rotate then add 3."))
    request = RetrieveRequest(
        bank="b",
        problems=world.problems_ref,
        step=1,
        settings=ContextSettings(excerpt_chars=64),
        quality=QualitySettings(hold_out=0.5),
        prompts=PROMPTS,
        out=f"file://{world.folder}/c.parquet",
    )
    result = retrieve(world.ledger, world.search, request, world.job("r1"))
    with world.ledger.read() as db:
        rows = db.execute(USES.select()).all()
    shown = sum(bool(r.shown) for r in rows)
    assert len(rows) == 8
    assert 0 < shown < 8
    assert result.with_context == shown
