"""The results of the comparison say what their measurements support, and are written from them alone."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pmd.gateway.report.curves import COLOURS, curve_chart
from pmd.gateway.report.results import (
    Measurement,
    Results,
    mean_curve,
    measurements,
    page,
    read,
    sentence,
    summary,
    with_summary,
    write,
)
from pmd.gateway.report.statistics import area, level, paired, t_quantile
from pmd.gateway.report.study import POCKET
from pmd.gateway.views import ReportView, RunStatus, RunView, StepView
from pmd.services.common.requests import SplitScore

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "docs" / "results"
CODE = POCKET.setting("code-hard")


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


def ends(**variants: list[float]) -> Results:
    """Runs of one setting that begin at 0 and end at these heights, a world each, equal on both splits.

    Of another setting there is one run: a place is named where it is not everywhere.
    """
    return Results(
        POCKET,
        [
            Measurement("code-easy", "base", 0, 0, "test", 1, 0.0),
            *(
                Measurement("code-hard", variant, world, step, split, 1, height)
                for variant, heights in variants.items()
                for world, end in enumerate(heights)
                for step, height in ((0, 0.0), (10, end))
                for split in ("test", "unseen")
            ),
        ],
    )


def test_the_committed_page_pictures_and_first_page_are_those_of_the_committed_measurements(tmp_path: Path) -> None:
    (tmp_path / "about-pocket.md").write_bytes((COMMITTED / "about-pocket.md").read_bytes())
    readme = tmp_path / "README.md"
    readme.write_bytes((ROOT / "README.md").read_bytes())
    write(POCKET, tmp_path, read(COMMITTED / "pocket.csv"), readme)
    written = [path for path in tmp_path.iterdir() if path not in (readme, tmp_path / "about-pocket.md")]
    assert {path.name for path in written} == {path.name for path in COMMITTED.glob("pocket*")}
    stale = [path.name for path in written if path.read_bytes() != (COMMITTED / path.name).read_bytes()]
    assert not stale, "run `make results`"
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes(), "run `make results`"


def test_a_level_is_a_mean_with_its_range_and_no_interval() -> None:
    assert str(level([0.99, 1.0, 0.98])) == "0.99 (0.98 to 1.00)"
    assert str(level([0.5])) == "0.50"


def test_an_interval_is_students_t_over_paired_differences() -> None:
    found = paired([0.8, 0.9, 1.0], [0.0, 0.0, 0.0])
    assert found.mean == pytest.approx(0.9)
    assert found.half_width == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert t_quantile(11) == t_quantile(9), "between table entries the interval is the wider one"


def test_pairing_takes_the_worlds_out() -> None:
    found = paired([0.9, 0.3, 0.6], [0.8, 0.2, 0.5])
    assert found.half_width == pytest.approx(0.0, abs=1e-12)
    assert (found.sign, found.above, found.below) == (1, 3, 0)


def test_two_worlds_that_happen_to_agree_support_nothing() -> None:
    found = paired([0.52, 0.53], [0.50, 0.51])
    assert (found.sign, str(found)) == (0, "+0.02")
    assert ("pmd", "sdpo") not in ends(pmd=[0.9, 0.9], sdpo=[0.1, 0.1]).comparisons()


def test_a_small_difference_does_not_read_as_certainty() -> None:
    assert str(paired([0.994, 0.996, 0.999], [0.99, 0.99, 0.99])) == "+0.006 ± 0.006"


@pytest.mark.parametrize(
    ("pmd", "said"),
    [
        ([0.9, 0.8, 0.7], "At the end: above by 0.40 on code-hard (both splits), in each world."),
        ([0.1, 0.0, 0.0], "At the end: below by 0.37 on code-hard (both splits), in each world."),
        ([0.5, 0.5, 0.4], "At the end: open, as the interval includes zero, on code-hard test (+0.07 ± 0.14, 2/3), "),
    ],
)
def test_the_paired_interval_decides_what_is_said(pmd: list[float], said: str) -> None:
    assert sentence(ends(pmd=pmd, sdpo=[0.5, 0.4, 0.3]), "At the end", "pmd", "sdpo").startswith(said)


def test_splits_are_judged_each_by_itself() -> None:
    lines = [
        Measurement("code-hard", variant, world, 0, split, 1, height)
        for variant, split, heights in (
            ("grpo", "test", (0.5, 0.6, 0.7)),
            ("grpo", "unseen", (0.1, 0.9, 0.2)),
            ("base", "test", (0.1, 0.1, 0.1)),
            ("base", "unseen", (0.1, 0.1, 0.1)),
        )
        for world, height in enumerate(heights)
    ]
    said = sentence(Results(POCKET, lines), "At the end", "grpo", "base")
    assert "above by 0.50 on code-hard (test), in each world; open" in said
    assert "code-hard unseen (+0.30 ± " in said


def test_area_is_the_mean_height_of_a_curve() -> None:
    assert area([(0, 0.0), (10, 1.0), (20, 1.0)]) == pytest.approx(0.75)
    assert area([(0, 0.4)]) == 0.4


def test_the_first_page_names_the_memory_agent_beside_pmd() -> None:
    said = summary(Results(POCKET, read(COMMITTED / "pocket.csv")))
    assert "memory agent" in said.splitlines()[0]
    assert "- PMD against memory agent" in said
    with pytest.raises(ValueError, match="no block"):
        with_summary("# a page\n", ends(pmd=[0.5]))


def test_a_page_says_how_few_worlds_it_has() -> None:
    text = page(ends(pmd=[0.9, 0.8, 0.7], base=[0.1, 0.1, 0.1]), "## By hand\n")
    assert "0.250 for 3" in text
    assert text.endswith("## By hand\n")
    assert "| `pmd` | 3 | 0.80 (0.70 to 0.90) |" in text


def test_all_evaluations_are_laid_open_and_read_back(tmp_path: Path) -> None:
    found = measurements(CODE, "pmd", 3, report(0, 0.4))
    assert found == [
        Measurement("code-hard", "pmd", 3, step, split, k, score)
        for step, scores in ((0, {1: 0, 8: 0}), (10, {1: 0.4, 8: 0.8}))
        for split in ("test", "unseen")
        for k, score in scores.items()
    ]
    write(POCKET, tmp_path, found)
    assert read(tmp_path / "pocket.csv") == found
    (tmp_path / "pocket.csv").write_text("step,score\n1,0.5\n")
    with pytest.raises(ValueError, match=r"pocket\.csv: the columns are"):
        read(tmp_path / "pocket.csv")


def test_curves_stand_alone_as_a_picture() -> None:
    curves = {"pmd": mean_curve({0: [(0, 0.0), (10, 0.9)], 1: [(0, 0.0), (10, 0.7), (20, 0.8)]})}
    assert curves == {"pmd": [(0, 0.0), (10, pytest.approx(0.8))]}
    picture = ElementTree.fromstring(curve_chart("code, hard", curves))  # noqa: S314 -- our own text
    assert picture.tag.endswith("svg")
    assert "pmd ends at 80%" in ElementTree.tostring(picture, encoding="unicode")
    (style,) = (part.text or "" for part in picture if part.tag.endswith("style"))
    drawn = {css for part in picture.iter() for css in part.get("class", "").split()}
    assert drawn <= set(re.findall(r"\.([a-z]\w*)", style))
    assert "main" not in style, "a page's rules in a picture"


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
        assert f".{colour} {{ --own: var(--{colour}); }}" in picture
        assert picture.count(f"--{colour}: #") == 2, "a colour in light and one in dark"
