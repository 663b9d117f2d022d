"""What a teacher context shows, switch by switch, and what it never shows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pmd.services.common.artifacts import load_messages, read_table
from pmd.services.common.options import ContextSettings, QualitySettings
from pmd.services.common.requests import RetrieveRequest
from pmd.services.memory.ledger import Filter, Item, reads
from pmd.services.memory.retrieve.contexts import shows_feedback, with_hold_out
from pmd.services.memory.retrieve.select import Note, Selection
from pmd.services.memory.write.record import over_budget
from tests.memory.ledger.test_ledger import note, write
from tests.memory.test_jobs import RIGHT, WRONG, active, contexts, solved
from tests.memory.world import PROMPTS, Words, World

ANSWER = "[1, 4, 1, 5]"
"""What the problems' test expects."""
PROGRAM = "```python\ndef solve(a):\n    b = [a[1], a[0]]\n    return b + [sum(b), len(b)]\n```"
COPY = "use b = [a[1], a[0]] and return b + [sum(b), len(b)]"
ALONE = {"demonstrations": "none", "feedback": "never"}
"""Memory alone, without what the batch itself shows."""


def said(world: World, step: int, prompt: str = "p0#0", **settings: object) -> str:
    """What the teacher of a rollout reads of memory; empty for nothing."""
    row = contexts(world, step, **ALONE | settings)[prompt]
    return load_messages(str(row["messages"]))[-1].content if row["has_context"] else ""


def rule(text: str, **values: object) -> Item:
    facts = {"topic": "zor", "support": 4, "members": 4}
    return note(text, scope="zor", level="behavior", kind="behavior", facts=facts, **values)


def test_law_3_no_note_that_states_the_answer_is_shown_whoever_wrote_it(world: World) -> None:
    """Past attempts, and notes of a person or an import, which no guard saw when they were written."""
    world.record(1, [("p0", f"Plan: hand back {ANSWER} when it passes.", True)])
    world.record(2, [("p0", f"Plan: hand back {ANSWER} when it fails.", False)])
    written = [note(f"zor-mil: strategy {ANSWER}"), note(f"zor-mil: lesson {ANSWER}", kind="lesson")]
    write(world.ledger, "k", *written, rule(f"every zor, behavior {ANSWER}"))
    world.record(3, [("p0", WRONG, False)])
    assert said(world, 3, levels=("experience", "insight", "behavior"), conflicts="show") == ""
    assert said(world, 3, levels=("experience",)) == ""


def test_law_3_a_rule_that_states_an_answer_is_quarantined_when_it_is_written(world: World) -> None:
    solved(world)
    world.abstract(4, Words(lambda p: f"Behavior: every zor ends at rotate {ANSWER}." if "zor" in p else "None"))
    assert active(world, "behavior") == []
    with world.ledger.read() as db:
        page, _ = reads.page(db, "b", Filter(level="behavior", status="quarantined"))
    assert {ANSWER in item.text and bool(item.facts["leak"]) for item in page} == {True}


def test_law_3_a_strategy_that_copies_a_passing_program_is_quarantined_when_it_is_written(world: World) -> None:
    world.record(1, [("p0", f"{RIGHT}\n{PROGRAM}", True)])
    world.reflect(1, Words(lambda _: f"Strategy: {COPY}"), ["p0"])
    assert active(world, "insight") == []


def test_a_demonstration_hides_its_thinking(world: World) -> None:
    world.batch(1, [("p0", f"<think>secret</think>{RIGHT}", True), ("p0", WRONG, False)])
    row = contexts(world, 1, levels=())["p0#1"]
    assert row["demonstration"] == "p0#0"
    shown = load_messages(str(row["messages"]))[-1].content
    assert RIGHT in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("rule_of", "alone", "beside_solution"),
    [("without_solution", True, False), ("always", True, True), ("never", False, False)],
)
def test_feedback_is_told_of_failed_attempts_as_the_recipe_says(
    rule_of: str, alone: bool, beside_solution: bool, world: World
) -> None:
    request = RetrieveRequest(
        bank=None,
        problems=world.problems_ref,
        step=1,
        settings=ContextSettings(feedback=rule_of),  # type: ignore[arg-type]
        prompts=PROMPTS,
        out="",
    )

    def told(outcome: str, has_solution: bool, feedback: str = "wrong") -> bool:
        return shows_feedback({"outcome": outcome, "feedback": feedback}, has_solution, request)

    for outcome in ("failed", "timeout", "format"):
        assert (told(outcome, False), told(outcome, True)) == (alone, beside_solution)
    for outcome in ("passed", "infra_error"):
        assert not told(outcome, False)
    assert not told("failed", False, feedback=""), "there is nothing to tell"


def test_feedback_that_is_never_told_is_not_told_of_past_attempts_either(world: World) -> None:
    world.record(1, [("p0", WRONG, False)])
    world.record(2, [("p0", WRONG, False)])
    assert "wrong 0" in said(world, 2, levels=("experience",), feedback="without_solution")
    assert "Failed: Plan: reverse" in said(world, 2, levels=("experience",))
    assert "wrong 0" not in said(world, 2, levels=("experience",))


def test_transient_memory_shows_no_attempt_of_an_earlier_step(world: World) -> None:
    for step in (1, 2):
        world.record(step, [("p0", RIGHT, True), ("p0", WRONG, False)])
    assert "Passed:" in said(world, 2, levels=("experience",))
    assert said(world, 2, levels=("experience",), transient=True) == ""


def test_a_past_attempt_is_told_with_the_rollout_that_it_was(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)])
    world.record(2, [("p0", RIGHT, True)])
    assert [i.policy_version for i in active(world, "experience")] == [0, 1]
    row = contexts(world, 2, levels=("experience",), **ALONE)["p0#0"]
    assert [i["sources"] for i in json.loads(str(row["items"]))] == [["1:p0#0"]]


def test_levels_that_are_off_are_not_read(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)])
    row = contexts(world, 1, levels=(), **ALONE)["p0#0"]
    assert (row["seq"], row["has_context"]) == (0, False)


def test_notes_are_credited_with_what_goes_beyond_chance(world: World) -> None:
    """Two of eight pass: a lucky guess among four options, and a start where attempts fail anyway."""
    world.record(1, [("p0", RIGHT, n < 2) for n in range(8)])
    write(world.ledger, "k", note("zor-mil: rotate then add 3."))
    assert "rotate" in said(world, 1)
    world.base_pass_rate = 0.25
    assert said(world, 1) == ""
    world.reflect(1, Words(lambda _: "None"), ["p0"])
    assert active(world, "insight") == [], "nor is it elected again"


def test_at_most_k_rules_are_shown_and_only_whole_notes_that_fit(world: World) -> None:
    world.record(1, [("p0", WRONG, False)])
    write(world.ledger, "k", *(rule(f"every zor {way}.") for way in ("rotates", "swaps", "turns")))
    assert [said(world, 1, k=k, conflicts="show").count("Behavior:") for k in (0, 1, 3)] == [0, 1, 3]
    assert said(world, 1, k=1, max_chars=10) == ""


def left_out(world: World, step: int, **settings: object) -> list[str]:
    """Why notes are not shown to the teacher of the first rollout of `step`."""
    row = contexts(world, step, **ALONE | settings)["p0#0"]
    return [note["reason"] for note in json.loads(str(row["left_out"]))]


def test_a_note_without_room_hides_no_other_and_the_context_says_so(world: World) -> None:
    """Of a bank that took longer notes than are taken now."""
    world.record(1, [("p0", WRONG, False)])
    long = f"zor-mil: {'slowly ' * 1000}"
    write(world.ledger, "k", note(long, edited=True), note("zor-mil: rotate.", pinned=True))
    write(world.ledger, "l", note("mind the sign.", kind="lesson"), rule("every zor turns."))
    shown = said(world, 1)
    assert "slowly" not in shown
    assert [part in shown for part in ("Strategy: zor-mil: rotate.", "Lesson: mind", "Behavior: every")] == [True] * 3
    (reason,) = left_out(world, 1)
    assert reason.startswith(f"no room: {len(long)} characters, and 6000 of 6000 (context.max_chars) were left"), reason
    assert world.retrieve(1).left_out == 1


def test_notes_of_people_are_fitted_in_first(world: World) -> None:
    world.record(1, [("p0", WRONG, False)])
    write(world.ledger, "k", note("zor-mil: rotate."), note("mind the sign.", kind="lesson", pinned=True))
    shown = said(world, 1, max_chars=20)
    assert ("mind the sign." in shown, "rotate" in shown) == (True, False)
    assert world.retrieve(1, max_chars=20).left_out == 0, "what a machine wrote is nobody's act"


def test_what_a_person_stands_behind_is_shown_or_the_context_says_why_not(world: World) -> None:
    world.record(1, [("p0", WRONG, False)])
    held = {"pinned": True}
    write(world.ledger, "k", note("zor-mil: rotate then add.", **held), note(f"it is {ANSWER}", kind="lesson", **held))
    write(world.ledger, "l", *(rule(f"every zor {way}.", **held) for way in ("rotates", "swaps", "turns")))
    reasons = sorted(left_out(world, 1, k=2, conflicts="show"))
    assert [reason.split(":")[0].split(";")[0] for reason in reasons] == [
        "2 behaviors (retrieval.k) come before it",
        "gives the answer away",
    ]
    world.record(2, [("p0", "Plan: rotate then add 3.", True), ("p0", "Plan: rotate then negate.", False)])
    write(world.ledger, "m", note("zor-mil: rotate then negate.", **held))
    (first, *_) = left_out(world, 2, k=2)
    assert first.startswith("contradicts "), first


def test_a_lesson_goes_when_what_it_warns_of_passes_or_is_what_a_strategy_says(world: World) -> None:
    write(world.ledger, "k", note("reverse then add 1.", kind="lesson"))
    world.record(1, [("p0", WRONG, False), ("p0", RIGHT, True)])
    assert "Lesson: reverse" in said(world, 1)
    write(world.ledger, "s", note("zor-mil: reverse then add 1."))
    world.record(2, [("p0", WRONG, True)])
    assert "Lesson:" not in said(world, 2), "the strategy is believed, at one of two"
    world.ledger.apply(
        "b",
        "gone",
        lambda tx: tx.set_status([i for i in active(world, "insight") if i.kind == "strategy"], "retired", 2, "run@1"),
    )
    world.record(3, [("p0", WRONG, True)])
    assert "Lesson:" not in said(world, 3), "two of three attempts that do it passed"


def test_what_people_hold_is_outside_budgets_and_never_held_out_by_chance(world: World) -> None:
    tries = [note(f"try {n}", level="experience", kind="attempt", facts={"passed": False}) for n in range(3)]
    held = replace(tries[0], pinned=True)
    assert [i.text for i in over_budget([held, *tries[1:]], 1)] == ["try 1"]
    request = RetrieveRequest(
        bank="b",
        problems=world.problems_ref,
        step=1,
        settings=ContextSettings(),
        quality=QualitySettings(hold_out=0.5),
        prompts=PROMPTS,
        out="",
    )
    shown = Selection(strategies=tuple(Note(note(f"s{n}", pinned=n < 9), f"s{n}", 1.0, 1.0, "") for n in range(18)))
    kept = [n.text for n in with_hold_out(shown, "p0", request).notes]
    assert kept[:9] == [f"s{n}" for n in range(9)]
    assert len(kept) < 18
    later = [n.text for n in with_hold_out(shown, "p0", request.model_copy(update={"step": 2})).notes]
    assert later != kept, "chance is another in each step"


def test_read_again_the_contexts_are_those_that_were_written(world: World) -> None:
    solved(world)
    result = world.retrieve(1)
    assert sum(row["has_context"] for row in read_table(result.contexts)) == result.with_context > 0
    assert {row["seq"] for row in read_table(result.contexts)} == {result.seq} == {world.ledger.seq("b")}
