"""The report holds the figures, is a well-formed page of its own, and draws what was recorded, nothing else."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from statistics import fmean
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from pmd.gateway.cli import output
from pmd.gateway.cli.report import render_compare_terminal, render_terminal
from pmd.gateway.recipes.inputs import StartBank
from pmd.gateway.report import figures, render_compare, render_html
from pmd.gateway.report.svg import Series, line_chart, spread, stacked_bars, ticks
from pmd.gateway.report.units import percent
from pmd.gateway.views import MemoryEvent, ReportView, RunStatus
from pmd.services.common.requests import SplitScore
from pmd.services.common.wire import Ref
from tests.gateway.cli.synthetic import report
from tests.gateway.cli.synthetic import score as scored

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(page: str) -> list[ElementTree.Element]:
    """The drawings of a page that is well-formed and needs nothing from elsewhere."""
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert page.startswith("<!doctype html>")
    assert not re.search(r"""<script|(src|href)=|url\(|@import""", page)
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # noqa: S314 - ours


def shown(renderable: object, width: int = 140) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_the_page_holds_the_figures() -> None:
    page = render_html(report())
    drawings = check_page(page)
    assert len(drawings) == 7
    for words in ("3\u00a0%", "95\u00a0%", "87\u00a0%", "15\u2009360", "9 min 24 s", "every zor-? begins with flip."):
        assert words in page


def test_every_drawing_speaks_to_a_screen_reader() -> None:
    names = set()
    for svg in check_page(render_html(report())):
        title, description = (svg.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc"))
        assert title is not None
        assert description is not None
        assert title.text
        assert description.text
        assert svg.get("role") == "img"
        assert svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        names.add(title.get("id"))
    assert len(names) == 7


def test_what_a_model_wrote_is_shown_and_never_interpreted() -> None:
    hostile = "</pre><script>alert(1)</script>"
    view = report().model_copy(update={"memory_samples": {"insight": [hostile]}})
    page = render_html(view)
    check_page(page)
    assert "&lt;script&gt;alert(1)" in page


def test_a_run_without_training_has_a_page() -> None:
    page = render_html(report("base", steps=0))
    assert len(check_page(page)) == 3
    assert "What it remembers" not in page


def test_a_run_that_failed_before_its_first_step_has_a_page() -> None:
    empty = report(error="rollout: no such model <x>").model_copy(update={"steps": [], "memory_samples": {}})
    page = render_html(empty)
    check_page(page)
    assert "no such model &lt;x&gt;" in page
    assert "No step was recorded." in page
    assert "steps" in shown(render_terminal(empty))


def test_a_long_run_stays_readable() -> None:
    long = render_html(report(steps=2000))
    check_page(long)
    assert long.count("<rect") < 2000


def test_the_terminal_holds_the_figures() -> None:
    words = shown(render_terminal(report()))
    for each in ("memory-free", "95\u00a0%", "15360 rollouts", "16 behaviors", "every zor-? begins with flip."):
        assert each in words


def runs() -> list[ReportView]:
    return [report("pmd"), report("sdpo", middle=48, seed=1), report("grpo", middle=90, seed=2)]


def test_a_comparison_shows_curves_and_differences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = render_compare(runs())
    assert len(check_page(page)) == 2
    assert "teacher.lead_gate" in page
    assert "optimizer.lr" not in page, "equal in all"
    monkeypatch.setattr(output, "console", Console(width=80))
    output.print_table(render_compare_terminal(runs()))
    words = capsys.readouterr().out
    assert "95\u00a0%" in words
    assert "…" not in words, "a small terminal cuts nothing off"


def test_a_comparison_draws_all_runs_however_many() -> None:
    page = render_compare([report(steps=10, seed=seed) for seed in range(20)])
    assert page.count('class="line') == 2 * 20


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 60), (1, 60), (0, 0.034), (0, 4096), (5, 5)])
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_labels_do_not_cover_each_other() -> None:
    placed = sorted(spread([50, 51, 52, 200], 0, 200, gap=16))
    assert all(b - a >= 16 for a, b in pairwise(placed))
    assert placed[-1] <= 200


def test_a_plot_of_one_point_or_of_none_is_drawn() -> None:
    for points in ([], [(0.0, 0.5)]):
        ElementTree.fromstring(line_chart("t", "d", [Series("a", points, "c1")]))  # noqa: S314
        ElementTree.fromstring(stacked_bars("t", "d", {"a": ("c1", points)}, y_label="s", y_form=str))  # noqa: S314


def standing(**run: object) -> ReportView:
    made = report()
    return made.model_copy(update={"run": made.run.model_copy(update=run)})


def test_what_a_run_waits_for_stands_in_its_report() -> None:
    reason = "the rollout service at http://127.0.0.1:8701 can't serve now: it does not answer"
    view = standing(status="running", waiting=reason)
    assert html.unescape(render_html(view)).count(f"It waits: {reason}") == 1
    assert f"waiting: {reason}" in " ".join(shown(render_terminal(view)).split())


def test_the_sentence_of_an_alarm_that_paused_a_run_is_said_once() -> None:
    alarm = "step 3: no rollout could be verified"
    view = standing(status="paused", error=alarm, warnings=[alarm, "accuracy did not rise"])
    for said in (render_html(view), shown(render_terminal(view))):
        assert said.count(alarm) == 1
        assert "accuracy did not rise" in said


def test_pass_at_k_of_one_answer_each_is_not_drawn() -> None:
    assert "pass@k" in render_html(report())
    one = report()
    for step in one.steps:
        for split, score in step.evaluation.items():
            step.evaluation[split] = score.model_copy(update={"pass_at": {1: score.pass_rate}})
    assert "pass@k" not in render_html(one)


def test_the_report_says_what_a_run_began_with_and_what_it_did_to_the_score() -> None:
    whole = report(steps=10)
    first = whole.steps[0].model_copy(update={"with_memory": {"test": scored(0.34), "unseen": scored(0.02)}})
    start = StartBank(
        source="run:other-1",
        file=Ref(uri="file:///start", sha256="f" * 64, bytes=1),
        sha256="0123456789abcdef" * 4,
        origin="other-1",
        model="big/Model",
        seq=41,
        items={"behavior": 3, "insight": 12},
        problems=9,
        renamed_problems=0,
    )
    events = [
        MemoryEvent(ts=1.0, step=2, edits=3),
        MemoryEvent(ts=2.0, step=7, edits=1),
        MemoryEvent(ts=3.0, step=None, edits=0, deleted_by="person:ada", while_status=RunStatus.RUNNING),
    ]
    told = whole.model_copy(update={"steps": [first, *whole.steps[1:]], "start": start, "memory_events": events})
    page = render_html(told)
    check_page(page)
    terminal = re.sub(r"[ \n]+", " ", shown(render_terminal(told), 200))
    for text in (html.unescape(page), terminal):
        assert "bank of run other-1, model big/Model, seq 41: 3 behaviors, 12 insights; sha256 0123456789ab" in text
        assert f"{percent(0.34)} with it" in text
        assert "4 changes by people took effect in 2 steps, 2 to 7" in text
        assert "person:ada deleted the bank while the run was running" in text
    assert "before the first step" in terminal
    plain = shown(render_terminal(whole))
    assert "began with" not in plain
    assert "people" not in plain


def score(passed: Sequence[int], samples: int = 8) -> SplitScore:
    """Of problems by how many of their answers passed."""
    pass_at = {
        k: fmean(1 - math.comb(samples - c, k) / math.comb(samples, k) for c in passed) for k in (1, 2) if k <= samples
    }
    return SplitScore(
        problems=len(passed), rollouts=len(passed) * samples, pass_rate=fmean(passed) / samples, pass_at=pass_at
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([4], [2], "-25 ± 47 points, which chance alone may be (1 problem x 8)"),
        ([2] * 16, [6] * 16, "+50 ± 11 points (16 problems x 8)"),
        ([0] * 8, [0] * 8, "+0 ± 4 points, which chance alone may be (8 problems x 8)"),
        # Four problems of 16 are learnt whole: as many answers as above, but they speak of four problems.
        ([8] * 4 + [0] * 12, [8] * 8 + [0] * 8, "+25 ± 33 points, which chance alone may be (16 problems x 8)"),
    ],
)
def test_a_change_is_told_with_what_chance_may_do(before: list[int], after: list[int], said: str) -> None:
    assert figures.Change("test", score(before), score(after), 10).said == said


def test_the_margin_is_that_of_a_mean_over_problems() -> None:
    """Of problems whose true rates vary, against their drawing again and again."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        before, after = (generator.binomial(8, generator.beta(0.5, 0.5, 24)) for _ in range(2))
        change = figures.Change("test", score(list(map(int, before))), score(list(map(int, after))), 10)
        held += abs(change.after - change.before) <= change.margin  # the true change is none
    assert held / 400 > 0.92


def test_terminal_and_page_say_how_sure_a_change_is() -> None:
    (first, *_) = figures.changes(report())
    assert first.said in " ".join(shown(render_terminal(report()), width=200).split())
    assert first.said in render_html(report())
