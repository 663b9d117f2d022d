"""`pmd reproduce` goes on from what is there: ended runs, and what earlier calls measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmd.gateway.cli.reproduce import RECIPES
from pmd.gateway.report.results import Measurement, read, write
from pmd.gateway.report.study import POCKET, Cell, recipe_key
from pmd.gateway.views import ReportView, RunStatus, RunView, StepView
from pmd.services.common.requests import SplitScore
from tests.gateway.cli.conftest import Pmd


@pytest.fixture
def ended(pmd: Pmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pmd:
    """A command line that has the report of world 5; its gateway is never asked, as nothing is left to run."""
    monkeypatch.setenv("PMD_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PMD_TOKEN", "token")
    recipe = POCKET.cell_recipe(cell := Cell(POCKET.setting("code-hard"), "pmd", 5), RECIPES, {})
    score = SplitScore(problems=1, rollouts=8, pass_rate=0.75, pass_at={1: 0.75})
    report = ReportView(
        run=RunView(
            id="r", name="r", method="pmd", status=RunStatus.SUCCEEDED, step=1, steps=1, version=1, created=0, updated=0
        ),
        recipe={},
        steps=[StepView(step=10, version=10, evaluation={"test": score, "unseen": score})],
    )
    cache = tmp_path / "state" / "reproduce"
    cache.mkdir(parents=True)
    (cache / f"{cell.name}.{recipe_key(recipe)[-12:]}.json").write_text(json.dumps(report.model_dump(mode="json")))
    return pmd


WORLD_5 = ("--setting", "code-hard", "--variant", "pmd", "--first-seed", "5", "--seeds", "1")


def test_one_more_world_stands_beside_those_measured_before(ended: Pmd, tmp_path: Path) -> None:
    out = tmp_path / "results"
    before = [Measurement("code-hard", "pmd", 4, 10, split, 1, 0.5) for split in ("test", "unseen")]
    stale = [Measurement("code-hard", "pmd", 5, 10, split, 1, 0.1) for split in ("test", "unseen")]
    write(POCKET, out, before + stale)
    (out / "about-pocket.md").write_text("## By hand\n")
    done = ended("reproduce", *WORLD_5, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert {(m.seed, m.pass_at_k) for m in read(out / "pocket.csv")} == {(4, 0.5), (5, 0.75)}
    assert (out / "pocket.md").read_text().endswith("## By hand\n"), "what people wrote stays"


def test_a_new_folder_says_where_its_runs_were_made(ended: Pmd, tmp_path: Path) -> None:
    assert ended("reproduce", *WORLD_5, "--out", str(tmp_path / "new")).exit_code == 0
    assert "cores" in (tmp_path / "new" / "pocket.md").read_text()


def test_runs_of_other_recipes_do_not_join_the_table(ended: Pmd, tmp_path: Path) -> None:
    write(POCKET, tmp_path, [Measurement("code-hard", "pmd", 0, 0, split, 1, 0.5) for split in ("test", "unseen")])
    refused = ended("reproduce", *WORLD_5, "--out", str(tmp_path), "--set", "teacher.ema=0.5")
    assert refused.exit_code == 2
    assert "--out" in refused.stderr


def test_a_benchmark_of_few_worlds_says_how_many(ended: Pmd) -> None:
    refused = ended("reproduce", "real", "--first-seed", "3", "--seeds", "2")
    assert refused.exit_code == 2
    assert "real has the seeds 1 to 3" in refused.stderr
