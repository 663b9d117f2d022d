"""The comparisons of methods: their cells, and recipes as functions of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.recipes.recipe import FileProblems, Recipe
from pmd.gateway.report.study import POCKET, REAL, STUDIES, Cell, Study, recipe_key

RECIPES = Path(__file__).parents[3] / "recipes"
CODE = POCKET.setting("code-hard")


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_cell_is_a_valid_recipe_of_its_own_world_and_a_function_of_the_cell(study: Study) -> None:
    for setting in study.settings:
        for variant in study.variants(RECIPES):
            recipe = Recipe.model_validate(study.cell_recipe(Cell(setting, variant, 2), RECIPES, {}))
            assert recipe.seed == 2
            if isinstance(recipe.problems, FileProblems):
                assert [Path(file).name for file in recipe.problems.files] == [f"{setting}-2.jsonl"]
                assert all(Path(file).exists() for file in recipe.problems.files)
            else:
                assert recipe.problems.world_seed == 2  # type: ignore[union-attr]
    cell = Cell(study.settings[0], "pmd", 0)
    keys = {recipe_key(study.cell_recipe(each, RECIPES, {})) for each in (cell, cell, Cell(cell.setting, "pmd", 1))}
    assert len(keys) == 2


def test_what_a_variant_changes_is_laid_over_the_recipe_of_its_kind() -> None:
    def shown(setting: str, variant: str) -> str:
        cell = Cell(POCKET.setting(setting), variant, 0)
        return str(POCKET.cell_recipe(cell, RECIPES, {})["context"]["demonstrations"])

    assert [shown("code-hard", v) for v in ("pmd", "sdpo", "demonstrations-none")] == ["same_plan", "any", "none"]
    assert [shown("choice-hard", v) for v in ("pmd", "sdpo", "demonstrations-any")] == ["none", "any", "any"]


def test_methods_of_the_real_benchmark_have_one_budget() -> None:
    """What a method may differ in is how it learns, not from how much."""
    recipes = [
        REAL.cell_recipe(Cell(REAL.settings[0], variant, 0), RECIPES, {}) for variant in METHODS if variant != "ssd"
    ]
    trained = [recipe for recipe in recipes if recipe["method"] != "base"]
    for key in ("schedule", "sampling", "evaluation", "problems", "model"):
        assert all(recipe[key] == trained[0][key] for recipe in trained), key
