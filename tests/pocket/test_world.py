"""What the worlds promise: the same seeds give the same problems, and splits mean what they say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pmd.examples.pocket.world import (
    ARRANGEMENTS,
    KINDS,
    LABELS,
    REQUIREMENTS,
    VOCABULARIES,
    CodeTask,
    Family,
    Kind,
    Procedure,
    WorldName,
    draw_world,
    problem_sets,
)

WORLDS: tuple[WorldName, ...] = ("easy", "hard")


def content(record: dict[str, Any]) -> str:
    return str(record["messages"][0]["content"])


def family_of(record: dict[str, Any]) -> str:
    found = re.search(r"[Aa]pply (\w+-\w+)", content(record))
    assert found
    return found[1]


def run_program(completion: str, argument: list[int]) -> Any:
    """Run a reference program; only completions that `world` itself wrote come here."""
    scope: dict[str, Any] = {}
    exec(completion.split("```python\n")[1].removesuffix("```"), scope)
    return scope["solve"](argument)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_same_seed_gives_the_same_problems_and_another_seed_others(kind: Kind, world: WorldName) -> None:
    assert problem_sets(kind, world, 3) == problem_sets(kind, world, 3)
    assert problem_sets(kind, world, 3) != problem_sets(kind, world, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_splits_are_disjoint_and_cover_what_they_promise(kind: Kind, world: WorldName) -> None:
    sets = problem_sets(kind, world, 5, exceptions=0.2)
    assert {split: len(records) for split, records in sets.items()} == {"train": 256, "test": 64, "unseen": 64}
    records = [record for split in sets.values() for record in split]
    assert len({content(r) for r in records}) == len({r["id"] for r in records}) == len(records)
    families = {split: {family_of(r) for r in found} for split, found in sets.items()}
    assert len(families["train"]) == 48
    assert len(families["unseen"]) == 16
    assert families["test"] <= families["train"]
    assert not families["unseen"] & families["train"]
    symbols = {symbol for family in families["train"] for symbol in family.split("-")}
    assert symbols == {*VOCABULARIES[world].firsts, *VOCABULARIES[world].seconds}


@pytest.mark.parametrize("world", WORLDS)
def test_hidden_tests_accept_the_true_procedure_and_few_others(world: WorldName) -> None:
    drawn = draw_world(world, 1)
    truth = {str(family): procedure for family, procedure in drawn.procedures.items()}
    requirements = {r.phrase: r for r in REQUIREMENTS}
    chance = []
    for record in problem_sets("code", world, 1, train=128)["train"]:
        first, second = family_of(record).split("-")
        phrase = content(record).split(", then ")[1].removesuffix(".")
        task = CodeTask(Family(first, second), requirements[phrase])
        passing = {
            procedure
            for procedure in drawn.vocabulary.procedures
            if all(
                run_program(task.completion(procedure), json.loads(t["input"])) == json.loads(t["output"])
                for t in record["verifier"]["tests"]
            )
        }
        assert truth[family_of(record)] in passing
        chance.append(len(passing) / len(drawn.vocabulary.procedures))
    assert sum(chance) / len(chance) <= (0.04 if world == "hard" else 0.08)


def test_lossy_requirements_stay_rare() -> None:
    assert sum(r.lossy for r in REQUIREMENTS) / len(REQUIREMENTS) <= 0.08


def test_a_choice_has_one_right_option_and_distractors_that_share_a_half() -> None:
    drawn = draw_world("hard", 2)
    truth = {str(family): procedure for family, procedure in drawn.procedures.items()}
    for record in problem_sets("choice", "hard", 2)["train"]:
        text = content(record)
        given = re.search(r"to (\d{4}):", text)
        assert given
        digits = tuple(map(int, given[1]))
        options = {label: option for option, label in re.findall(r"(\d{4}) ([ABCD])", text)}
        right = truth[family_of(record)]
        assert len({option[-1] for option in options.values()}) == len(LABELS), "no two end alike"
        assert options[record["verifier"]["answer"]] == "".join(map(str, right.apply(digits)))  # type: ignore[arg-type]
        for label, option in options.items():
            makers = [
                p
                for p in drawn.vocabulary.procedures
                if "".join(map(str, p.apply(digits))) == option  # type: ignore[arg-type]
            ]
            shared = {(p.arrangement == right.arrangement) + (p.shift == right.shift) for p in makers}
            assert shared == ({2} if label == record["verifier"]["answer"] else {1})


def test_exceptions_break_the_rule_of_exactly_their_share() -> None:
    plain, broken = draw_world("hard", 7), draw_world("hard", 7, exceptions=0.25)
    changed = {family for family in plain.procedures if plain.procedures[family] != broken.procedures[family]}
    assert changed == broken.exceptions
    assert len(changed) == 16
    assert plain.unseen == broken.unseen
    assert not plain.exceptions


def test_procedures_arrange_then_shift_and_are_all_different() -> None:
    assert Procedure("rotate", 3).apply((1, 2, 3, 9)) == (5, 6, 2, 4)
    assert len(set(ARRANGEMENTS.values())) == len(ARRANGEMENTS) == 16
    assert [len(VOCABULARIES[world].procedures) for world in WORLDS] == [24, 64]


def test_easy_and_hard_share_no_symbol() -> None:
    words = [*VOCABULARIES["easy"].firsts, *VOCABULARIES["easy"].seconds]
    words += [*VOCABULARIES["hard"].firsts, *VOCABULARIES["hard"].seconds]
    assert len(set(words)) == len(words) == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "codes", "world": "hard"}, "use 'code' or 'choice'"),
        ({"kind": "code", "world": "medium"}, "use 'easy' or 'hard'"),
        ({"kind": "code", "world": "hard", "exceptions": 20}, "between 0 and 1"),
        ({"kind": "code", "world": "hard", "unseen": 801}, "ask for fewer"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem_sets(world_seed=0, **arguments)
