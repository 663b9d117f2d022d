"""The comparison of methods: its numbers, its cells, its table."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest

from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.report.curves import COLOURS, curve_chart
from pmd.gateway.report.statistics import area, estimate, paired, t_quantile
from pmd.gateway.report.study import (
    Cell,
    Setting,
    cell_recipe,
    markdown,
    mean_curves,
    measurements,
    recipe_key,
    rows,
    variants,
)
from pmd.gateway.views import ReportView, RunStatus, RunView, StepView
from pmd.services.common.requests import SplitScore

RECIPES = Path(__file__).parents[2] / "recipes"
CODE = Setting("code", "hard")


def report(*heights: float) -> ReportView:
    """A run that was evaluated every 10 steps at these heights on both splits."""
    steps = []
    for n, height in enumerate(heights):
        score = SplitScore(problems=1, rollouts=8, pass_rate=height, pass_at={1: height, 8: min(1.0, 2 * height)})
        steps.append(StepView(step=10 * n, version=10 * n, evaluation={"test": score, "unseen": score}))
    run = RunView(
        id="r", name="r", method="pmd", status=RunStatus.SUCCEEDED, step=1, steps=1, version=1, created=0, updated=0
    )
    return ReportView(run=run, recipe={}, steps=steps)


def test_an_interval_is_students_t_over_seeds() -> None:
    found = estimate([0.8, 0.9, 1.0])
    assert found.mean == pytest.approx(0.9)
    assert found.half_width == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert estimate([0.5]).half_width == math.inf
    assert t_quantile(11) == t_quantile(9), "between table entries the interval is the wider one"


def test_pairing_takes_the_worlds_out() -> None:
    assert paired([0.9, 0.3], [0.8, 0.2]).half_width == pytest.approx(0.0, abs=1e-12)
    assert estimate([0.9, 0.3]).half_width > 1


def test_area_is_the_mean_height_of_a_curve() -> None:
    assert area([(0, 0.0), (10, 1.0), (20, 1.0)]) == pytest.approx(0.75)
    assert area([(0, 0.4)]) == 0.4


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


def test_the_table_compares_with_pmd_seed_by_seed() -> None:
    reports = {"pmd": {0: report(0, 0.9), 1: report(0, 0.7)}, "sdpo": {0: report(0, 0.5), 1: report(0, 0.3)}}
    pmd, sdpo = rows(reports)
    assert pmd.final["test"].mean == pytest.approx(0.8)
    assert sdpo.lead_final["test"].mean == pytest.approx(0.4)
    assert sdpo.lead_final["test"].half_width == pytest.approx(0.0, abs=1e-9)
    assert sdpo.area["test"].mean == pytest.approx(0.2)
    assert "| `sdpo` | 2 | 0.40 ±" in markdown(CODE, [pmd, sdpo])


def test_all_evaluations_are_laid_open() -> None:
    assert measurements(CODE, {"pmd": {3: report(0, 0.4)}}) == [
        ("code-hard", "pmd", 3, step, split, k, score)
        for step, scores in ((0, {1: 0, 8: 0}), (10, {1: 0.4, 8: 0.8}))
        for split in ("test", "unseen")
        for k, score in scores.items()
    ]


def test_curves_stand_alone_as_a_picture() -> None:
    curves = mean_curves({"pmd": {0: report(0, 0.9), 1: report(0, 0.7)}}, "test")
    assert curves == {"pmd": [(0, 0.0), (10, pytest.approx(0.8))]}
    picture = ElementTree.fromstring(curve_chart("code, hard", curves))  # noqa: S314 -- our own text
    assert picture.tag.endswith("svg")
    assert "pmd ends at 80%" in ElementTree.tostring(picture, encoding="unicode")


def test_a_method_looks_the_same_in_every_picture() -> None:
    def style(names: list[str]) -> str:
        picture = curve_chart("x", {name: [(0, 0.1), (10, 0.5)] for name in names})
        return re.findall(r'class="line (\w+)"', picture)[names.index("pmd")]

    assert style(["base", "grpo", "pmd"]) == style(["pmd", "memory-frozen"])


def test_every_variant_has_a_line_that_is_seen() -> None:
    names = [f"v{n}" for n in range(len(COLOURS) + 1)]
    picture = curve_chart("many", {name: [(0, 0.1), (10, 0.5)] for name in names[1:]} | {names[0]: [(0, 0.2)]})
    assert picture.count('class="line ') == len(names)
    for colour in COLOURS:
        assert f".line.{colour} {{ stroke:" in picture
        assert f".name.{colour}" in picture
