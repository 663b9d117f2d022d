"""`pmd init`: what it writes is a recipe that lacks nothing but its model."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pmd.gateway.cli.init import EXAMPLE
from pmd.gateway.cli.main import app
from pmd.gateway.recipes.files import load_recipe
from pmd.gateway.recipes.problems import problems_of
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.memory.index.embed import HashEmbedder

BASE = Path(__file__).parents[3] / "examples" / "pocket" / "base"
run = CliRunner().invoke


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PMD_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.delenv("PMD_URL", raising=False)


def test_a_dry_run_of_it_misses_the_model_and_nothing_else(tmp_path: Path) -> None:
    assert run(app, ["init", "my task!"]).exit_code == 0
    written = tmp_path / "my task!"
    recipe = Recipe.model_validate(load_recipe(written / "recipe.yaml"))
    assert (recipe.name, recipe.model) == ("my-task", str(tmp_path / "models" / "smollm2"))
    problems, bad = problems_of(recipe)
    assert [p.split for p in problems] == ["train"] * 24 + ["test"] * 8
    assert not bad
    tried = run(app, ["runs", "create", str(written / "recipe.yaml"), "--dry-run"])
    assert tried.exit_code == 2
    assert f"model: no folder {tmp_path / 'models' / 'smollm2'}" in " ".join(tried.output.split())
    command = ["runs", "create", str(written / "recipe.yaml"), "--dry-run", "--set", f"model={BASE}"]
    assert "32 problems, 0 bad records" in run(app, command).output


def test_memory_lends_a_problem_the_answers_of_its_own_kind_alone() -> None:
    """Those of the other kind follow another rule: a teacher that is shown them is worse than its student."""
    recipe = Recipe.model_validate(load_recipe(EXAMPLE / "recipe.yaml"))
    problems, _ = problems_of(recipe)
    rows = HashEmbedder().embed([problem.question() for problem in problems])
    for one, a in enumerate(problems):
        for two, b in enumerate(problems):
            same = a.id.partition("-")[0] == b.id.partition("-")[0]
            assert (rows[one] @ rows[two] >= recipe.retrieval.min_similarity) == same


def test_it_names_the_schema_that_it_writes_and_the_model_that_it_is_given(tmp_path: Path) -> None:
    assert run(app, ["init", "--model", str(BASE)]).exit_code == 0
    first, *lines = (tmp_path / "recipe.yaml").read_text().splitlines()
    assert (tmp_path / first.removeprefix("# yaml-language-server: $schema=")).is_file()
    assert f"model: {BASE}" in lines
    assert "pmd runs create recipe.yaml --dry-run" in (tmp_path / "README.md").read_text()


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text("mine")
    told = run(app, ["init"])
    assert told.exit_code == 1
    assert "problems.jsonl is there already" in told.output
    assert {path.name for path in tmp_path.iterdir()} == {"problems.jsonl"}
