"""Ordinary banks by the defaults: own notes first, few of others, and those of problems that ask the like."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from pmd.gateway.recipes.prompts import INSTRUCT
from pmd.services.common.artifacts import load_messages, read_table
from pmd.services.common.options import RetrievalSettings
from pmd.services.memory.ledger import CLUSTER, Item
from tests.memory import ordinary
from tests.memory.ordinary import PROGRAMMING, SCIENCE, Ordinary, Topic
from tests.memory.world import Words, World

UNTOLD = 2
"""Problems of each topic that have no notes of their own."""


@dataclass
class Context:
    """What one problem's teacher reads."""

    of: Ordinary
    items: list[Item]
    text: str

    def notes(self, own: bool) -> list[Item]:
        return [i for i in self.items if i.level == "insight" and (i.scope == self.of.problem.id) is own]


@dataclass
class Shelf:
    """A bank and what it shows."""

    world: World
    problems: dict[str, Ordinary]
    contexts: list[Context]

    def topic(self, item: Item) -> int:
        return self.problems[item.scope.removeprefix(CLUSTER)].topic


@pytest.fixture(scope="module", params=["choice", "programming"])
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    topics: list[Topic] = SCIENCE if request.param == "choice" else PROGRAMMING
    problems = {one.problem.id: one for one in ordinary.bank(topics, UNTOLD)}
    world = ordinary.filled(tmp_path_factory.mktemp("bank"), list(problems.values()))
    rules = Words(lambda prompt: f"Behavior: {prompt.splitlines()[0].split('; ')[-1]}")
    world.abstract(1, rules, clustering="embeddings")
    world.prompts = INSTRUCT
    world.batch(2, [(pid, "I recall.", False) for pid in problems])
    rows = read_table(world.retrieve(2, feedback="never").contexts)
    held = {i.id: i for level in ("insight", "behavior") for i in world.ledger.active("b", level)}  # type: ignore[arg-type]
    contexts = [
        Context(
            problems[row["problem_id"]],
            [held[note["id"]] for note in json.loads(row["items"])],
            load_messages(row["messages"])[-1].content,
        )
        for row in rows
    ]
    return Shelf(world, problems, contexts)


def test_the_banks_are_as_large_as_they_say(shelf: Shelf) -> None:
    assert len(shelf.problems) in (300, 150)
    assert len({one.problem.question() for one in shelf.problems.values()}) == len(shelf.problems)


def test_a_problem_with_notes_of_its_own_is_shown_no_others(shelf: Shelf) -> None:
    told = [c for c in shelf.contexts if c.of.notes]
    assert not any(c.notes(own=False) for c in told), "not even where chance holds its own out"
    shown = Counter(len(c.notes(own=True)) for c in told)
    assert shown[2] + shown[1] > 0.85 * len(told), "a quarter are held out, each by itself"


def test_own_notes_stand_before_those_of_others(shelf: Shelf) -> None:
    for context in shelf.contexts:
        own, foreign = context.notes(own=True), context.notes(own=False)
        places = [context.text.index(item.text) for item in (*own, *foreign)]
        assert max(places[: len(own)], default=0) <= min(places[len(own) :], default=len(context.text))


def test_what_comes_from_other_problems_is_little_and_of_the_same_topic(shelf: Shelf) -> None:
    limits = RetrievalSettings()
    untold = [c for c in shelf.contexts if not c.of.notes]
    for context in shelf.contexts:
        foreign = context.notes(own=False)
        rules = [i for i in context.items if i.level == "behavior"]
        assert len(foreign) <= limits.foreign
        assert len(rules) <= limits.k
        assert {i.kind for i in foreign} <= {"strategy"}
        assert len({i.text for i in foreign}) == len(foreign)
        near = foreign if context.of.notes else [*foreign, *rules]
        assert {shelf.topic(i) for i in near} <= {context.of.topic}
    assert sum(bool(c.notes(own=False)) for c in untold) > len(untold) / 2, "and it reaches those who need it"
    fit = [shelf.topic(i) == c.of.topic for c in shelf.contexts for i in c.items if i.level == "behavior"]
    assert sum(fit) >= 0.85 * len(fit), "a cluster by spelling takes in a stranger now and then"


def test_notes_of_unlike_problems_reach_nobody(tmp_path: Path) -> None:
    """One problem of each topic: however few notes there are, nothing is shown for want of something better."""
    problems = [one for one in ordinary.bank(SCIENCE) if one.problem.id.endswith("-07")]
    problems += [one for one in ordinary.bank(SCIENCE, UNTOLD) if not one.notes and one.topic % 4 == 0]
    alone = [one for one in problems if one.notes and one.topic % 4 == 0]
    keep = [one for one in problems if one not in alone]
    world = ordinary.filled(tmp_path, keep)
    world.batch(2, [(one.problem.id, "I recall.", False) for one in keep])
    rows = read_table(world.retrieve(2, feedback="never").contexts)
    untold = {one.problem.id for one in keep if not one.notes}
    assert len(untold) == 10
    assert [json.loads(row["items"]) for row in rows if row["problem_id"] in untold] == [[]] * 10
