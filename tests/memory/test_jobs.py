"""The jobs on a real ledger: what is written, what is shown, and the laws that hold while doing so."""

from __future__ import annotations

import json

import pytest

from pmd.services.common.artifacts import load_messages, read_table
from pmd.services.common.wire import Level
from pmd.services.memory.ledger import Filter, Item, reads
from tests.memory.world import Words, World, code_problem

CODE = "\n```python\ndef solve(a): code\n```"
RIGHT, WRONG = f"Plan: rotate then add 3.{CODE}", f"Plan: reverse then add 1.{CODE}"
ANSWER = "[1, 4, 1, 5]"
"""What the problems' test expects."""
STRATEGY = "Strategy: {}: rotate then add 3."


def family(prompt: str) -> str:
    return prompt.split("Apply ")[1].split(".", maxsplit=1)[0]


def contexts(world: World, step: int, **settings: object) -> dict[str, dict[str, object]]:
    return {row["prompt_id"]: row for row in read_table(world.retrieve(step, **settings).contexts)}


def content(row: dict[str, object]) -> str:
    return load_messages(str(row["messages"]))[-1].content


def active(world: World, level: Level) -> list[Item]:
    return world.ledger.active("b", level)


def test_experience_is_kept_newest_first_within_its_budget(world: World) -> None:
    world.record(1, [("p0", f"try {n}", False) for n in range(3)], keep=2)
    counts = world.record(2, [("p0", "try 3", True)], keep=2)
    assert [i.text for i in active(world, "experience")] == ["try 2", "try 3"]
    assert (counts.experience, counts.seq) == (2, 2)


def test_law_10_what_was_recorded_together_keeps_its_order_in_any_bank(both: World) -> None:
    tries = [f"try {n}" for n in range(12)]
    both.record(1, [("p0", text, False) for text in tries], keep=12)
    assert [i.text for i in both.ledger.active("b", "experience")] == tries


def test_a_repeated_job_changes_nothing(world: World) -> None:
    first = world.record(1, [("p0", RIGHT, True)])
    assert world.record(1, [("p0", RIGHT, True)]) == first


def test_law_3_evaluation_problems_never_enter_a_bank(world: World) -> None:
    world.problems["t0"] = code_problem("t0", "Apply zor-mil.", split="test")
    with pytest.raises(ValueError, match="t0"):
        world.record(1, [("t0", RIGHT, True)])


def test_law_5_an_attempt_that_nobody_could_judge_is_no_experience(world: World) -> None:
    world.record(1, [("p0", WRONG, None), ("p0", RIGHT, True)])
    assert [i.text for i in active(world, "experience")] == [RIGHT]


def test_law_5_an_attempt_that_nobody_could_judge_has_no_feedback(world: World) -> None:
    world.batch(1, [("p0", WRONG, None), ("p0", WRONG, False)])
    nobody, failed = contexts(world, 1, levels=()).values()
    assert failed["feedback"]
    assert not nobody["feedback"]
    assert not nobody["has_context"]


def test_reflection_contrasts_and_replaces(world: World) -> None:
    world.record(1, [("p0", RIGHT, True), ("p0", WRONG, False), ("p1", WRONG, False)])
    words = Words(lambda p: STRATEGY.format(family(p)) if p.startswith("contrast") else "Lesson: not reverse.")
    world.reflect(1, words)
    assert {p.split("|")[0] for p in words.asked} == {"contrast", "failures"}
    assert "rotate then add 3." in words.asked[0]
    assert "code" not in words.asked[0], "reflection sees the head of an attempt, not its program"
    assert {(i.kind, i.text) for i in active(world, "insight")} == {
        ("strategy", "zor-mil: rotate then add 3."),
        ("lesson", "not reverse."),
    }


def test_reflection_sees_each_approach_once(world: World) -> None:
    attempts = [("p0", WRONG, False), ("p0", RIGHT, False), ("p0", WRONG, False), ("p0", RIGHT, True)]
    world.record(1, [*attempts, ("p0", RIGHT, True)], keep=8)
    words = Words(lambda _: "None")
    world.reflect(1, words, ["p0"])
    _, _, successes, failures, *_ = words.asked[0].split("|")
    assert (successes.count("rotate"), successes.count("reverse")) == (1, 0)
    assert (failures.count("rotate"), failures.count("reverse")) == (0, 1)


def test_the_model_is_asked_only_where_attempts_say_something_new(world: World) -> None:
    world.record(1, [("p0", RIGHT, True), ("p1", RIGHT, True), ("p2", WRONG, False)])
    answer = Words(lambda p: STRATEGY.format(family(p)) if "successes|" in p else "Lesson: not reverse then add 3.")
    world.reflect(1, answer)
    assert len(answer.asked) == 3
    world.record(2, [("p0", RIGHT, True), ("p1", WRONG, True), ("p2", WRONG, False), ("p2", WRONG, False)])
    again = Words(lambda _: "None")
    world.reflect(2, again)
    assert [p.split("|")[1] for p in again.asked] == ["Apply zor-mil. Task 1."], "only p1 did something else"
    assert {i.scope for i in active(world, "insight")} == {"p0", "p1", "p2"}


def test_a_note_that_claims_the_same_keeps_its_words(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)])
    world.reflect(1, Words(lambda p: STRATEGY.format(family(p))), ["p0"])
    world.record(2, [("p0", RIGHT, True), ("p0", WRONG, False)])
    world.reflect(2, Words(lambda _: "Strategy: then zor-mil: add rotate 3 with.\nLesson: not reverse."), ["p0"])
    assert [i.text for i in active(world, "insight") if i.kind == "strategy"] == ["zor-mil: rotate then add 3."]


def test_an_old_strategy_stands_as_long_as_attempts_bear_it_out(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)])
    world.reflect(1, Words(lambda p: STRATEGY.format(family(p))), ["p0"])
    world.record(2, [("p0", WRONG, False)])
    world.reflect(2, Words(lambda _: "None"), ["p0"])
    assert [i.text for i in active(world, "insight")] == ["zor-mil: rotate then add 3."]
    world.record(3, [("p0", RIGHT, False)] * 6)
    world.reflect(3, Words(lambda _: "None"), ["p0"])
    assert active(world, "insight") == [], "a lucky hit goes when what it says keeps failing"


def test_rare_successes_outlive_a_flood_of_failures(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)], keep=4)
    world.record(2, [("p0", WRONG, False)] * 8, keep=4)
    assert [i.facts["passed"] for i in active(world, "experience")] == [True, False, False, False]


def test_a_strategy_needs_a_passed_attempt_and_a_lesson_a_failed_one(world: World) -> None:
    world.record(1, [("p0", WRONG, False), ("p1", RIGHT, True)])
    world.reflect(1, Words(lambda _: "Strategy: anything.\nLesson: anything else."))
    assert {(i.scope, i.kind) for i in active(world, "insight")} == {("p0", "lesson"), ("p1", "strategy")}


def test_law_3_a_leaking_note_is_quarantined_and_never_shown(world: World) -> None:
    world.record(1, [("p0", RIGHT, True), ("p0", WRONG, False)])
    world.reflect(1, Words(lambda _: "Strategy: return [1, 4, 1, 5]."))
    with world.ledger.read() as db:
        page, _ = reads.page(db, "b", Filter(level="insight", status="quarantined"))
    assert [i.text for i in page] == ["return [1, 4, 1, 5]."]
    assert all("1, 4, 1, 5" not in content(row) for row in contexts(world, 1, demonstrations="none").values())


def test_law_3_an_attempt_that_states_the_answer_is_not_shown_again(world: World) -> None:
    world.record(1, [("p0", "Plan: return [1, 4, 1, 5].", True), ("p0", WRONG, False)])
    world.record(2, [("p0", WRONG, False)])
    shown = content(contexts(world, 2, levels=("experience",))["p0#0"])
    assert "reverse then add 1" in shown
    assert "1, 4, 1, 5" not in shown


def test_an_unreadable_answer_keeps_the_old_insight(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)])
    world.reflect(1, Words(lambda p: STRATEGY.format(family(p))))
    world.record(2, [("p0", RIGHT, True)])
    world.reflect(2, Words(lambda _: "hm"), ["p0"])
    assert [i.text for i in active(world, "insight")] == ["zor-mil: rotate then add 3."]


def solved(world: World) -> None:
    """Every zor problem solved by rotating; insights say so."""
    world.record(1, [(pid, *((RIGHT, True) if pid < "p4" else (WRONG, False))) for pid in sorted(world.problems)])
    world.reflect(1, Words(lambda p: STRATEGY.format(family(p)) if "successes|" in p else "None"))


def test_what_became_of_the_models_answers_is_counted_with_examples(world: World) -> None:
    world.record(1, [("p0", RIGHT, True), ("p0", WRONG, False), ("p1", RIGHT, True)])
    lines = f"Sure.\nStrategy: rotate then add 3.\nStrategy: zor-mil ends {ANSWER}.\nLesson: rotate then add 3."
    told = world.reflect(1, Words(lambda p: lines if "Task 0" in p else "I can't tell."), ["p0", "p1"])
    assert (told.asked, told.refused, told.unusable, told.insight) == (2, 0, 1, 1)
    assert told.dropped == {"gives the answer away": 1, "no attempt bears it out": 1, "outside the notes": 1}
    assert "unusable: I can't tell." in told.examples
    assert "no attempt bears it out: rotate then add 3." in told.examples


def test_notes_are_asked_for_by_a_schema_unless_the_recipe_asks_for_lines(world: World) -> None:
    world.record(1, [("p0", RIGHT, True)])
    words = Words(lambda _: "None")
    world.reflect(1, words, ["p0"])
    assert words.schema["required"] == ["strategies", "lessons"]
    world.notes_format = "lines"
    world.record(2, [("p0", WRONG, False)])
    world.reflect(2, words, ["p0"])
    assert words.schema is None


def test_behaviors_need_support_purity_and_their_topic(world: World) -> None:
    solved(world)
    words = Words(lambda p: "Behavior: every zor begins with rotate." if "zor" in p else "None")
    assert world.abstract(4, words).behavior == 1
    (rule,) = active(world, "behavior")
    assert (rule.facts["topic"], rule.facts["support"], rule.facts["members"]) == ("zor", 4, 4)
    off_topic = Words(lambda _: "Behavior: every pav begins with rotate.")
    world.abstract(5, off_topic)
    assert [i.text for i in active(world, "behavior")] == [rule.text], (
        "unsupported rules are refused, old ones re-elected"
    )


def test_a_rule_in_other_words_is_the_same_rule(world: World) -> None:
    solved(world)
    world.abstract(4, Words(lambda p: "Behavior: every zor begins with rotate." if "zor" in p else "None"))
    world.abstract(5, Words(lambda p: "Behavior: zor begins with rotate." if "zor" in p else "None"))
    assert [i.text for i in active(world, "behavior")] == ["every zor begins with rotate."]


def test_the_model_is_asked_for_rules_only_where_none_says_it_already(world: World) -> None:
    solved(world)
    rule = Words(lambda p: "Behavior: every zor begins with rotate." if "zor" in p else "None")
    world.abstract(4, rule)
    again = Words(lambda _: "Behavior: every zor with rotate.")
    assert world.abstract(8, again).behavior == 1
    assert len(again.asked) < len(rule.asked)
    assert [i.text for i in active(world, "behavior")] == ["every zor begins with rotate."]


def test_a_behavior_is_forgotten_when_its_evidence_goes(world: World) -> None:
    solved(world)
    world.abstract(4, Words(lambda p: "Behavior: every zor begins with rotate." if "zor" in p else "None"))
    ids = ["p0", "p1", "p2", "p3"]
    world.record(5, [(pid, RIGHT, False) for pid in ids] * 6 + [(pid, "Plan: swap then add 1.", True) for pid in ids])
    world.reflect(5, Words(lambda p: f"Strategy: {family(p)}: swap then add 1."), ids)
    assert world.abstract(8, Words(lambda _: "None")).behavior == 0


def test_a_behavior_reaches_problems_that_have_no_insight_of_their_own(world: World) -> None:
    solved(world)
    world.abstract(1, Words(lambda p: "Behavior: every zor begins with rotate." if "zor" in p else "None"))
    world.ledger.apply("b", "forget", lambda tx: tx.set_status(active(world, "insight"), "retired", 1, "person"))
    rows = {r["prompt_id"]: r for r in read_table(world.retrieve(1, per_rollout=False).contexts)}
    assert "every zor begins with rotate" in content(rows["p0"])
    assert not rows["p4"]["has_context"]


def test_a_contradicted_rule_is_not_shown_beside_the_better_note(world: World) -> None:
    solved(world)
    world.abstract(1, Words(lambda p: "Behavior: every zor begins with rotate." if "zor" in p else "None"))
    world.record(2, [("p0", WRONG, True)] * 3 + [("p0", RIGHT, False)] * 4)
    world.reflect(2, Words(lambda _: "Strategy: zor-mil: reverse then add 1."), ["p0"])
    row = contexts(world, 2, demonstrations="none")["p0#0"]
    assert "reverse then add 1" in content(row)
    assert "every zor" not in content(row)
    shown = contexts(world, 2, demonstrations="none", conflicts="show")["p0#0"]
    assert "every zor" in content(shown)


def test_law_3_a_rollout_is_never_its_own_demonstration(world: World) -> None:
    world.batch(1, [("p0", RIGHT, True), ("p0", WRONG, False), ("p0", RIGHT, True), ("p1", RIGHT, True)])
    rows = contexts(world, 1, levels=())
    shown = {pid: row["demonstration"] for pid, row in rows.items()}
    assert shown == {"p0#0": "p0#2", "p0#1": "p0#0", "p0#2": "p0#0", "p1#3": None}
    assert not rows["p1#3"]["has_context"]


def test_same_plan_shows_a_solution_only_to_those_who_took_the_approach(world: World) -> None:
    world.batch(1, [("p0", RIGHT, True), ("p0", WRONG, False), ("p0", RIGHT, True)])
    rows = contexts(world, 1, levels=(), demonstrations="same_plan")
    assert rows["p0#0"]["demonstration"] == "p0#2"
    assert rows["p0#1"]["demonstration"] is None
    assert rows["p0#1"]["feedback"], "without a solution the rollout's own feedback is shown"
    assert "wrong 1" in content(rows["p0#1"])


def test_experience_shows_the_head_of_earlier_attempts_only(world: World) -> None:
    world.record(1, [("p0", RIGHT, True), ("p0", WRONG, False)])
    world.record(2, [("p0", f"Plan: swap then add 5.{CODE}", True)])
    row = contexts(world, 2, levels=("experience",))["p0#0"]
    assert "Passed: Plan: rotate then add 3." in content(row)
    assert "Failed: Plan: reverse then add 1." in content(row)
    assert "swap" not in content(row)
    assert "code" not in content(row)


def test_a_failed_attempt_is_not_shown_beside_the_lesson_that_says_it(world: World) -> None:
    world.record(1, [("p0", WRONG, False)])
    world.record(2, [("p0", WRONG, False)])
    assert "Failed: Plan: reverse then add 1." in content(contexts(world, 2, levels=("experience", "insight"))["p0#0"])
    world.reflect(2, Words(lambda _: "Lesson: not reverse then add 1."), ["p0"])
    shown = content(contexts(world, 2, levels=("experience", "insight"))["p0#0"])
    assert "Lesson: not reverse then add 1." in shown
    assert "Failed:" not in shown


def test_a_strategy_serves_every_problem_that_it_speaks_about(world: World) -> None:
    world.record(1, [(pid, RIGHT if pid == "p0" else WRONG, pid == "p0") for pid in world.problems])
    world.reflect(1, Words(lambda p: STRATEGY.format(family(p))), ["p0"])
    rows = contexts(world, 1, levels=("insight",), demonstrations="none", feedback="never")
    assert "zor-mil: rotate then add 3." in content(rows["p1#1"]), "p1 asks for zor-mil too"
    assert not rows["p2#2"]["has_context"], "p2 asks for zor-kem"
    why = json.loads(str(rows["p1#1"]["items"]))[0]["reason"]
    assert "strategy of p0, which speaks about this problem too" in why


def test_attempts_at_every_problem_that_a_strategy_speaks_about_count(world: World) -> None:
    """What passed by luck at one problem fails at the others."""
    world.record(1, [(pid, RIGHT if pid == "p0" else WRONG, pid == "p0") for pid in world.problems])
    world.reflect(1, Words(lambda p: STRATEGY.format(family(p))), ["p0"])
    world.record(2, [("p1", RIGHT, False)] * 6)
    rows = contexts(world, 2, levels=("insight",), demonstrations="none", feedback="never")
    assert not rows["p1#0"]["has_context"]
    world.record(3, [("p0", WRONG, False)])
    world.reflect(3, Words(lambda _: "None"), ["p0"])
    assert active(world, "insight") == []


def test_transient_memory_shows_only_what_this_step_wrote(world: World) -> None:
    solved(world)
    world.record(2, [("p0", RIGHT, True), ("p2", RIGHT, True)])
    world.reflect(2, Words(lambda p: STRATEGY.format(family(p))), ["p0"])
    rows = contexts(world, 2, levels=("insight",), transient=True, demonstrations="none")
    assert rows["p0#0"]["has_context"]
    assert not rows["p2#1"]["has_context"]


def test_law_8_a_context_can_be_explained(world: World) -> None:
    solved(world)
    rows = contexts(world, 1)
    items = json.loads(str(rows["p0#0"]["items"]))
    assert [(i["level"], i["version"]) for i in items] == [("insight", 1)]
    held = world.ledger.item("b", items[0]["id"])
    assert held is not None
    assert held.facts["sources"] == ["1:p0#0"]
    assert rows["p0#0"]["seq"] == world.ledger.seq("b")
    with world.ledger.read() as db:
        assert [version.text for version, _ in reads.history(db, "b", held.id)] == [held.text]


def test_retrieval_is_reproducible_byte_for_byte(world: World) -> None:
    solved(world)
    assert world.retrieve(1).contexts.sha256 == world.retrieve(1).contexts.sha256


def test_a_deleted_bank_is_gone(world: World) -> None:
    solved(world)
    world.ledger.delete("b")
    assert active(world, "insight") == []
    assert world.ledger.seq("b") == 0


def test_a_text_with_nul_is_kept_without_it(both: World) -> None:
    both.record(1, [("p0", "Plan: ro\0tate.", True)])
    (attempt,) = both.ledger.active("b", "experience")
    assert attempt.text == "Plan: ro\ufffdtate."
    both.reflect(1, Words(lambda _: "Strategy: ro\0tate."), ["p0"])
    (note,) = both.ledger.active("b", "insight")
    assert note.text == "ro\ufffdtate."
