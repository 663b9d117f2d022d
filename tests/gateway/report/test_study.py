"""The comparison of methods: its cells, and recipes as functions of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.report.study import Cell, Setting, cell_recipe, recipe_key, variants

RECIPES = Path(__file__).parents[3] / "recipes"
CODE = Setting("code", "hard")


def test_a_cell_is_a_valid_recipe_of_its_own_world_and_a_function_of_the_cell() -> None:
    for variant in variants(RECIPES):
        recipe = Recipe.model_validate(cell_recipe(Cell(CODE, variant, 3), RECIPES, {}))
        assert recipe.problems.world_seed == 3  # type: ignore[union-attr]
        assert recipe.seed == 3
    keys = {recipe_key(cell_recipe(Cell(CODE, "pmd", seed), RECIPES, {})) for seed in (0, 0, 1)}
    assert len(keys) == 2


def test_what_a_variant_changes_is_laid_over_the_recipe_of_its_kind() -> None:
    def shown(kind: Literal["code", "choice"], variant: str) -> str:
        return str(cell_recipe(Cell(Setting(kind, "hard"), variant, 0), RECIPES, {})["context"]["demonstrations"])

    assert [shown("code", v) for v in ("pmd", "sdpo", "demonstrations-none")] == ["same_plan", "any", "none"]
    assert [shown("choice", v) for v in ("pmd", "sdpo", "demonstrations-any")] == ["none", "any", "any"]
