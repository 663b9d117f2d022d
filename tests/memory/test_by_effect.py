"""Memory on prose: notes belong to their problem and are believed by what they lead to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pmd.services.common.artifacts import read_table
from pmd.services.common.requests import RecordRequest
from pmd.services.common.wire import Message, Problem
from pmd.services.memory.ledger import reads
from pmd.services.memory.write.record import record
from tests.memory.world import Words, World

QUESTIONS = {
    "p0": "Which gas is released when zinc is put into dilute acid?\nA: oxygen\nB: hydrogen\nC: nitrogen",
    "p1": "Which gas is released when calcium is put into cold water?\nA: chlorine\nB: hydrogen\nC: argon",
    "p2": "How many chromosomes has a human gamete?\nA: 23\nB: 46\nC: 92",
}


@pytest.fixture
def prose(tmp_path: Path) -> World:
    """A bank of questions in natural language."""
    world = World(
        tmp_path,
        [
            Problem(
                id=pid,
                messages=[Message(role="user", content=text)],
                verifier={"kind": "choice", "options": [line[3:] for line in text.splitlines()[1:]], "answer": "A"},
            )
            for pid, text in QUESTIONS.items()
        ],
    )
    world.evidence = "effect"
    return world


def attempt(world: World, step: int, *, passed: bool = True) -> None:
    """A step in which each problem was tried twice, once without success."""
    tries = [("I recall what I read about it.", passed), ("I guess.", False)]
    world.record(step, [(pid, text, ok) for pid in QUESTIONS for text, ok in tries])


def reflect(world: World, step: int, notes: dict[str, str]) -> None:
    by_question = {QUESTIONS[pid]: note for pid, note in notes.items()}
    world.reflect(step, Words(lambda prompt: next((n for q, n in by_question.items() if q in prompt), "None")))


def shown(world: World, step: int, **settings: Any) -> dict[str, list[str]]:
    """The notes of each problem's contexts."""
    rows = read_table(world.retrieve(step, levels=("insight", "behavior"), **settings).contexts)
    return {row["problem_id"]: [note["text"] for note in json.loads(row["items"])] for row in rows}


def led_to(world: World, step: int, reward: dict[str, bool]) -> None:
    """Record what the contexts of a step led to."""
    rollouts, verdicts = world.batch(100 + step, [(pid, "I recall.", passed) for pid, passed in reward.items()])
    request = RecordRequest(
        bank="b",
        step=step + 1,
        rollouts=rollouts,
        verdicts=verdicts,
        problems=world.problems_ref,
        outcomes=verdicts,
        outcomes_step=step,
    )
    record(world.ledger, request, world.job(f"s{step}.outcomes"))


ACID = "Strategy: Metals above hydrogen in the activity series displace it from acids."


def test_a_note_belongs_to_its_problem_and_reaches_others_only_through_the_index(prose: World) -> None:
    attempt(prose, 1)
    reflect(prose, 1, {"p0": ACID})
    assert shown(prose, 1, by_meaning=()) == {"p0": [ACID.removeprefix("Strategy: ")], "p1": [], "p2": []}
    found = shown(prose, 1, by_meaning=("insight",), foreign_similarity=0.2)
    assert found["p1"] == found["p0"], "it asks the like"
    assert found["p2"] == [], "it has the same words around its options, and asks for something else"


def test_an_own_note_comes_before_those_of_others(prose: World) -> None:
    attempt(prose, 1)
    own = "Strategy: Reactive metals free a light gas from water."
    reflect(prose, 1, {"p0": ACID, "p1": own})
    for step in range(2, 12):
        prose.batch(step, [("p1", "I recall.", True)])
        notes = shown(prose, step, by_meaning=("insight",), foreign_similarity=0.0)["p1"]
        assert notes in ([own.removeprefix("Strategy: ")], []), "held out by chance, it isn't replaced by another's"


def test_a_note_that_misleads_loses_its_place_and_one_that_helps_keeps_it(prose: World) -> None:
    helps, misleads = ACID, "Strategy: The gas is always the one that is named last."
    attempt(prose, 1)
    reflect(prose, 1, {"p0": helps, "p2": misleads})
    for step in range(2, 14):
        attempt(prose, step, passed=step % 2 == 0)
        notes = shown(prose, step)
        led_to(prose, step, {"p0": bool(notes["p0"]), "p1": False, "p2": not notes["p2"] and step % 2 == 0})
    attempt(prose, 14)
    assert shown(prose, 14)["p2"] == []
    with prose.ledger.read() as db:
        everything = prose.ledger.active("b", "insight")
        trials = reads.trials(db, "b", [item.id for item in everything])
    assert {one.shown for one in trials} == {True, False}, "some were held out by chance"
    assert all(one.base_trials == one.trials for one in trials), "each is compared with attempts without memory"
    reflect(prose, 14, {})
    assert [item.text for item in prose.ledger.active("b", "insight")] == [helps.removeprefix("Strategy: ")]


def test_an_untested_note_is_held_out_more_often_than_a_tested_one(prose: World) -> None:
    attempt(prose, 1)
    reflect(prose, 1, {"p0": ACID})
    untested = []
    for step in range(2, 42):
        prose.batch(step, [("p0", "I recall.", True)])
        untested.append(bool(shown(prose, step)["p0"]))
    assert 0.6 < sum(untested) / len(untested) < 0.9
    for step in range(2, 10):
        led_to(prose, step, {"p0": True})
    tested = []
    for step in range(42, 62):
        prose.batch(step, [("p0", "I recall.", True)])
        tested.append(bool(shown(prose, step)["p0"]))
    assert all(tested), "memory.quality.hold_out is 0"


def test_notes_that_contradict_each_other_are_not_shown_together(prose: World) -> None:
    attempt(prose, 1)
    claim = "ook for the metal in the activity series."
    reflect(prose, 1, {"p0": f"Strategy: L{claim}\nLesson: Never l{claim}"})
    for step in range(2, 12):
        prose.batch(step, [("p0", "I recall.", True)])
        assert len(shown(prose, step)["p0"]) <= 1
