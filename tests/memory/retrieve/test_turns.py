"""Memory as turns of the chat: passed attempts at other problems, and never what would answer this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pmd.services.common.artifacts import load_messages, read_table
from pmd.services.common.wire import Message, Problem
from tests.memory.ledger.test_ledger import note, write
from tests.memory.world import World

ALONE = {"demonstrations": "none", "feedback": "never", "min_similarity": 0.0}
STYLES = {"kitchen": "No.", "lab": "#", "attic": "Room-"}


def sign(room: str, number: int, **values: Any) -> Problem:
    asked = f"Write the sign for {room} {number}."
    return Problem(
        id=f"{room}-{number}",
        messages=[Message(role="system", content="Answer in one line."), Message(role="user", content=asked)],
        verifier={"kind": "exact", "answer": f"{STYLES[room]}{number}"},
        **values,
    )


def right(problem: Problem) -> tuple[str, str, bool]:
    return problem.id, str(problem.verifier["answer"]), True


PROBLEMS = [sign(room, number) for room in STYLES for number in (17, 28, 39)]
KITCHENS = PROBLEMS[:3]


@pytest.fixture
def signs(tmp_path: Path) -> World:
    """A step after one in which every problem was solved."""
    world = World(tmp_path, PROBLEMS)
    world.record(1, [right(problem) for problem in PROBLEMS])
    world.record(2, [right(PROBLEMS[0]), (PROBLEMS[0].id, "17", False)])
    return world


def context(world: World, step: int, prompt: str = "kitchen-17#1", **settings: Any) -> dict[str, Any]:
    told = world.retrieve(step, **ALONE | {"render": "turns", "levels": ("experience",)} | settings)
    return {row["prompt_id"]: row for row in read_table(told.contexts)}[prompt]


def chat(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in load_messages(row["messages"])]


def test_attempts_at_the_nearest_problems_are_earlier_turns_the_nearest_last(signs: World) -> None:
    row = context(signs, 2, turns=2)
    assert chat(row) == [
        ("system", "Answer in one line."),
        ("user", "Write the sign for kitchen 39."),
        ("assistant", "No.39"),
        ("user", "Write the sign for kitchen 28."),
        ("assistant", "No.28"),
        ("user", "Write the sign for kitchen 17."),
    ]
    assert (row["turns"], row["has_context"]) == (2, True)
    assert context(signs, 2, turns=0)["has_context"] is False


def test_law_8_each_turn_is_explained(signs: World) -> None:
    shown = json.loads(context(signs, 2, turns=2)["items"])
    assert [(item["sources"], item["version"], item["level"]) for item in shown] == [
        (["1:kitchen-28#1"], 1, "experience"),
        (["1:kitchen-39#2"], 1, "experience"),
    ]
    assert shown[0]["reason"] == "passed attempt at kitchen-28, which asks the like, as a turn of the chat"
    assert 0 < shown[1]["score"] <= shown[0]["score"] <= 1
    assert signs.retrieve(2, **ALONE, render="turns", levels=("experience",)).items_used["turns"] == 2


def test_law_3_no_attempt_at_the_problem_itself_is_a_turn_nor_one_of_this_step_nor_a_failed_one(tmp_path: Path) -> None:
    world = World(tmp_path, PROBLEMS)
    kitchen, other, third = KITCHENS
    world.record(1, [right(kitchen), (other.id, "28", False)])
    world.record(2, [right(kitchen), right(third)])
    row = context(world, 2, "kitchen-17#0", turns=8)
    assert (row["turns"], row["has_context"]) == (0, False), chat(row)


@pytest.mark.parametrize("wording", ["Write the sign for kitchen 17.", "write the  sign for kitchen 17"])
def test_law_3_an_attempt_at_a_problem_that_asks_the_same_is_no_turn(wording: str, tmp_path: Path) -> None:
    twin = sign("kitchen", 17)
    asked = [Message(role="user", content=wording)]
    world = World(tmp_path, [twin, twin.model_copy(update={"id": "again", "messages": asked})])
    world.record(1, [("again", "What the door says.", True)])  # in words that no guard knows
    world.record(2, [("kitchen-17", "17", False)])
    assert context(world, 2, "kitchen-17#0")["turns"] == 0


def test_law_3_a_turn_that_says_the_problems_own_answer_is_left_out(tmp_path: Path) -> None:
    capital = {"kind": "exact", "answer": "Canberra"}
    asks = {"a": "What is the capital of Australia?", "b": "Which Australian city seats its parliament?"}
    made = [Problem(id=i, messages=[Message(role="user", content=q)], verifier=capital) for i, q in asks.items()]
    world = World(tmp_path, made)
    world.record(1, [("b", "CAPITAL=Canberra", True)])
    world.record(2, [("a", "CAPITAL=Sydney", False)])
    assert context(world, 2, "a#0")["turns"] == 0


def test_a_label_that_others_share_gives_nothing_away(tmp_path: Path) -> None:
    """Without the turns of its own label, the teacher would be told which one it is not."""
    words = {"r0": "Superb film.", "r1": "Lovely film.", "r2": "Great film.", "r3": "Awful film."}
    made = [
        Problem(
            id=pid,
            messages=[Message(role="user", content=f"Label: {review}")],
            verifier={"kind": "exact", "answer": "MINUS" if pid == "r3" else "PLUS"},
        )
        for pid, review in words.items()
    ]
    world = World(tmp_path, made)
    world.record(1, [right(problem) for problem in made[1:]])
    world.record(2, [("r0", "MINUS", False)])
    answers = [text for role, text in chat(context(world, 2, "r0#0")) if role == "assistant"]
    assert sorted(answers) == ["MINUS", "PLUS", "PLUS"]


def test_a_banned_attempt_is_no_turn(signs: World) -> None:
    attempts = signs.ledger.active("b", "experience", ["kitchen-28"])
    signs.ledger.apply("b", "k", lambda tx: tx.set_status(attempts, "banned", 2, "person:ada"))
    signs.record(3, [right(PROBLEMS[0])])
    assert "No.28" not in [text for _, text in chat(context(signs, 3, "kitchen-17#0", turns=2))]


def test_turns_show_no_notes_and_both_show_them_in_the_last_turn(signs: World) -> None:
    write(signs.ledger, "k", note("kitchen: the prefix comes first.", scope="kitchen-17", pinned=True))
    levels = ("experience", "insight")
    row = context(signs, 2, levels=levels)
    assert not any("prefix" in text for _, text in chat(row))
    left_out = json.loads(row["left_out"])
    (reason,) = [left["reason"] for left in left_out if left["cause"] == "render"]
    assert reason.startswith("context.render: turns shows no notes")
    row = context(signs, 2, levels=levels, render="both")
    assert "Strategy: kitchen: the prefix" in chat(row)[-1][1]
    assert row["turns"] > 0
    assert context(signs, 2, levels=levels, render="notes")["turns"] == 0


def test_a_turn_without_room_is_left_out_whole(signs: World) -> None:
    question, answer = chat(context(signs, 2, turns=1))[1:3]
    size = len(question[1]) + len(answer[1])
    assert context(signs, 2, turns=2, max_chars=size + 1)["turns"] == 1
    assert context(signs, 2, turns=2, max_chars=size)["turns"] == 0


@pytest.mark.parametrize("render", ["notes", "turns", "both"])
def test_law_2_with_memory_off_contexts_are_those_of_sdpo(render: str, signs: World) -> None:
    def read(**values: Any) -> list[dict[str, Any]]:
        return read_table(signs.retrieve(2, **{"levels": (), **values}).contexts)

    assert read(render=render) == read()
    assert any("Solution: No.17" in row["messages"] for row in read(render=render))
