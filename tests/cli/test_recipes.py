"""Every recipe of the repository is valid, and says what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.recipe import Method, Recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
POCKET = [RECIPES / "pocket.yaml", *sorted((RECIPES / "pocket").rglob("*.yaml"))]


def read(path: Path) -> Recipe:
    return Recipe.model_validate(load_recipe(path))


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_is_valid(path: Path) -> None:
    read(path)


def test_names_tell_recipes_apart() -> None:
    names = [read(path).name for path in POCKET]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("method", list(Method))
def test_every_method_has_a_recipe_on_the_same_problems(method: Method) -> None:
    recipe = read(RECIPES / "pocket" / f"{method}.yaml")
    assert recipe.method is method
    assert recipe.problems == read(RECIPES / "pocket.yaml").problems


def test_ablations_differ_from_pmd_in_one_thing() -> None:
    whole = read(RECIPES / "pocket" / "pmd.yaml").model_dump()
    for path in sorted((RECIPES / "pocket" / "ablations").glob("*.yaml")):
        ablated = read(path).model_dump()
        assert [key for key in whole if whole[key] != ablated[key] and key != "name"], path.name
        changed = [
            f"{section}.{key}"
            for section in ("memory", "retrieval", "context", "teacher", "policy", "optimizer", "sampling")
            for key in whole[section]
            if whole[section][key] != ablated[section][key]
        ]
        assert len(changed) == 1, path.name


def test_sdpo_and_pmd_share_everything_but_memory_learning_rate_and_who_may_be_shown() -> None:
    own = {"name": True, "method": True, "optimizer": {"lr"}, "context": {"demonstrations"}}
    sdpo, pmd = (read(RECIPES / "pocket" / f"{name}.yaml").model_dump(exclude=own) for name in ("sdpo", "pmd"))
    assert sdpo == pmd
