"""Problems that reasoning-gym generates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.recipes.problems import InvalidRecipe, load_problems, materialise, parse_recipe
from pmd.services.common import values
from pmd.services.common.artifacts import read_problems

pytest.importorskip("reasoning_gym")
Tree = Callable[..., dict[str, Any]]


def tree_of(recipe_tree: Tree, **problems: Any) -> dict[str, Any]:
    tree = recipe_tree()
    tree["problems"] = {"source": "reasoning_gym", "dataset": "gcd", "sizes": {"train": 8, "test": 4}, **problems}
    return tree


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        load_problems(parse_recipe(tree).problems)
    return str(caught.value)


def test_the_same_recipe_gives_the_same_problems(recipe_tree: Tree) -> None:
    source = parse_recipe(tree_of(recipe_tree)).problems
    problems, bad = load_problems(source)
    assert bad == []
    assert [p.split for p in problems] == ["train"] * 8 + ["test"] * 4
    assert load_problems(source)[0] == problems
    other = parse_recipe(tree_of(recipe_tree, seeds={"train": 5})).problems
    assert load_problems(other)[0] != problems


def test_a_problem_is_its_question_and_its_entry(recipe_tree: Tree) -> None:
    tree = tree_of(recipe_tree, settings={"max_value": 20}, extract="last_line", pass_at=0.5, instruction="Go.")
    problem = load_problems(parse_recipe(tree).problems)[0][0]
    entry = values.decode(problem.verifier["entry"])
    assert problem.question() == f"{entry['question']}\n\nGo."
    assert entry["answer"] not in {message.content for message in problem.messages}
    rest = {key: value for key, value in problem.verifier.items() if key != "entry"}
    assert rest == {
        "kind": "reasoning_gym",
        "dataset": "gcd",
        "settings": {"max_value": 20},
        "extract": "last_line",
        "pass_at": 0.5,
    }


def test_no_question_stands_in_two_splits(recipe_tree: Tree) -> None:
    tree = tree_of(recipe_tree, settings={"min_value": 1, "max_value": 12}, seeds={"train": 3, "test": 3})
    asked = [p.question() for p in load_problems(parse_recipe(tree).problems)[0]]
    assert len(set(asked)) == len(asked) == 12


def test_a_run_keeps_what_was_generated(recipe_tree: Tree, tmp_path: Path) -> None:
    inputs = materialise(parse_recipe(tree_of(recipe_tree)), "demo-1", f"file://{tmp_path}/runs")
    assert len(read_problems(inputs.problems)) == 12
    assert len(inputs.train) == 8


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"dataset": "gdc"}, "reasoning-gym has no 'gdc'; did you mean 'gcd'?"),
        ({"settings": {"colour": 1}}, "settings: gcd refuses them"),
        ({"settings": {"min_value": 9, "max_value": 3}}, "settings: gcd refuses them"),
        ({"settings": {"seed": 3}}, "settings.seed: say it by split, in problems.seeds"),
        ({"seeds": {"unseen": 3}}, "seeds.unseen: there is no such split in sizes"),
        ({"settings": {"min_value": 1, "max_value": 2}}, "different questions more in 64 tries"),
        ({"sizs": {}}, "did you mean 'sizes'"),
    ],
)
def test_what_can_not_be_generated_says_why(over: dict[str, Any], why: str, recipe_tree: Tree) -> None:
    assert why in refusal(tree_of(recipe_tree, **over))


def test_where_there_are_no_generators_it_is_said_where_they_are(
    recipe_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    said = refusal(tree_of(recipe_tree))
    assert "install pmd[reasoning-gym]; in containers take the image api-gym in place of api" in said
