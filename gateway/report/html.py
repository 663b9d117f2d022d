"""The report as one HTML page: no scripts, no external assets, light and dark, desktop and phone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report import figures
from pmd.gateway.report.statistics import area, curve
from pmd.gateway.report.svg import PLOT_STYLE, Points, Series, line_chart, small_multiples, stacked_bars
from pmd.gateway.report.units import count, duration, percent
from pmd.gateway.views import ReportView

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)

SPLIT_STYLE = {"test": ("c1", "solid"), "unseen": ("c2", "dashed")}
SPLIT_ABOUT = {
    "test": "new problems of the kinds that were trained on",
    "unseen": "combinations that never occur in training",
}
LEVEL_ABOUT = {
    "behavior": "rules that hold across problems",
    "insight": "strategies and lessons of one problem",
    "experience": "attempts at a problem, as they were verified",
}
LEVEL_CSS = {"experience": "c4", "insight": "c5", "behavior": "c3"}
PHASE_CSS = {"rollout": "c1", "verify": "c6", "memory": "c3", "probe": "c5", "train": "c2", "evaluate": "c4"}
OUTCOME_CSS = {
    "passed": "c3",
    "failed": "c2",
    "format": "c6",
    "timeout": "c5",
    "memory": "c1",
    "output_limit": "c4",
    "infra_error": "c7",
}
RUN_STYLE = tuple((css, dash) for dash in ("solid", "dashed", "dotted") for css in ("c1", "c2", "c3", "c5", "c6", "c4"))


class Chart(NamedTuple):
    """A drawing with what the page says about it."""

    title: str
    note: str
    drawing: Markup


def _css() -> Markup:
    style = PLOT_STYLE + (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return Markup(style)  # noqa: S704 - our own files


def render_html(report: ReportView) -> str:
    """The page of one run."""
    run = report.run
    seconds = figures.seconds(report)
    facts = [
        ("steps", f"{run.step} of {run.steps}" if run.step < run.steps else str(run.step)),
        ("time", duration(seconds)),
        ("training rollouts", count(figures.rollouts(report))),
    ]
    facts += [(f"{level}s kept", count(n)) for level, n in figures.memory_counts(report).items()]
    return _pages.get_template("page.html").render(
        css=_css(),
        run=run,
        with_memory=METHODS[run.method].prompts_with_memory,
        created=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(run.created)),
        changes=figures.changes(report),
        split_about=SPLIT_ABOUT,
        facts=facts,
        last_update=figures.last_update(report),
        notes=figures.notes(report),
        start=figures.start(report),
        start_worth=figures.start_worth(report),
        memory_events=figures.memory_events(report),
        charts=[chart for draw in DRAWINGS if (chart := draw(report)) is not None],
        samples=[
            (level, about, texts) for level, about in LEVEL_ABOUT.items() if (texts := report.memory_samples.get(level))
        ],
        recipe=_recipe(report.recipe),
        prompts=report.recipe.get("prompts") or {},
        percent=percent,
    )


def render_compare(reports: Sequence[ReportView]) -> str:
    """One page for several runs: table, learning curves, and where their recipes differ."""
    splits = list(dict.fromkeys(split for report in reports for split in figures.splits(report)))
    rows = []
    for report in reports:
        changed = {change.split: change for change in figures.changes(report)}
        cells = []
        for split in splits:
            change = changed.get(split)
            cells.append((percent(change.before), percent(change.after)) if change else ("–", ""))
            cells.append((percent(area(curve(report.steps, split))) if change else "–", ""))
        rows.append((report.run, cells, duration(figures.seconds(report))))
    charts = []
    for split in splits:
        lines = [
            Series(label, curve(report.steps, split), css, dash, markers=True)
            for report, label, (css, dash) in zip(reports, _labels(reports), itertools.cycle(RUN_STYLE), strict=False)
        ]
        title = f"Accuracy on {split}"
        drawing = line_chart(title, _describe(lines), lines, height=320)
        charts.append(Chart(title, SPLIT_ABOUT.get(split, ""), Markup(drawing)))  # noqa: S704 - escaped in svg
    return _pages.get_template("compare.html").render(
        css=_css(), splits=splits, rows=rows, charts=charts, differences=figures.differences(reports), reports=reports
    )


def _labels(reports: Sequence[ReportView]) -> list[str]:
    """The method when it tells the runs apart, else the end of the id."""
    methods: list[str] = [report.run.method for report in reports]
    return methods if len(set(methods)) == len(methods) else [report.run.id[-14:] for report in reports]


def _chart(title: str, note: str, drawing: str) -> Chart:
    return Chart(title, note, Markup(drawing))  # noqa: S704 - svg.py escapes all words


def _accuracy(report: ReportView) -> Chart | None:
    lines = [
        Series(split, curve(report.steps, split), *SPLIT_STYLE.get(split, ("c6", "dotted")), markers=True)
        for split in figures.splits(report)
    ]
    if not lines:
        return None
    how = "with" if METHODS[report.run.method].prompts_with_memory else "without"
    note = f"Share of answers that pass, {how} memory in the prompt, on problems that are never trained on."
    return _chart("Accuracy", note, line_chart("Accuracy", _describe(lines), lines))


def _training(report: ReportView) -> Chart | None:
    alone, helped = figures.train_rate(report), figures.probe_rate(report)
    if not alone:
        return None
    lines = [Series("student", alone, "c1"), Series("with notes", helped, "c3", "dashed")]
    note = "Share of training rollouts that pass."
    shade: tuple[Points, Points] | None = None
    if helped:
        note += (
            " The gap to the same policy with its notes in the prompt is the teacher's lead: what is left to distil."
        )
        probed = dict(helped)
        both = [(x, y) for x, y in alone if x in probed]
        shade = ([(x, probed[x]) for x, _ in both], both)
    return _chart("Training", note, line_chart("Training", _describe(lines), lines, shade=shade))


def _pass_at(report: ReportView) -> Chart | None:
    lines = [
        Series(f"{split} {when}", points, SPLIT_STYLE.get(split, ("c6", ""))[0], dash, markers=True)
        for split in figures.splits(report)
        for (when, points), dash in zip(figures.pass_at(report, split).items(), ("dotted", "solid"), strict=True)
    ]
    if not any(len(line.points) > 1 for line in lines):
        return None  # of one answer each it is the accuracy
    note = "Chance that at least one of k answers passes, before the first step and after the last evaluated one."
    drawing = line_chart("pass@k", _describe(lines, x_word="k"), lines, x_label="k answers", log2=True)
    return _chart("pass@k", note, drawing)


def _memory(report: ReportView) -> Chart | None:
    lines = [Series(f"{level}s", points, LEVEL_CSS[level]) for level, points in figures.memory_growth(report).items()]
    if not lines:
        return None
    drawing = small_multiples("Memory", _describe(lines, count), lines)
    return _chart("Memory", "Items by level; each panel has its own scale.", drawing)


def _health(report: ReportView) -> Chart | None:
    lines = [Series(sign, points, "c2") for sign, points in figures.health(report).items()]
    if not lines:
        return None

    def form(value: float) -> str:
        return f"{value:.3g}"

    drawing = small_multiples("Health", _describe(lines, form), lines, y_form=form)
    return _chart(
        "Health of learning", "What `alarms` of the recipe has bounds for; each panel has its own scale.", drawing
    )


def _time(report: ReportView) -> Chart | None:
    spent = figures.phase_seconds(report)
    if not spent:
        return None
    means = [f"{group} {sum(y for _, y in points) / len(points):.1f}" for group, points in spent.items()]
    stacks = {group: (PHASE_CSS.get(group, "c7"), points) for group, points in spent.items()}
    described = f"Mean seconds, where it ran: {', '.join(means)}."
    drawing = stacked_bars("Time per step", described, stacks, y_label="seconds", y_form=lambda v: f"{v:.3g}")
    return _chart("Time per step", "Seconds of service calls, by what they are for.", drawing)


def _outcomes(report: ReportView) -> Chart | None:
    shares = figures.outcomes(report)
    if not shares:
        return None
    ends = [f"{name} {percent(points[-1][1])}" for name, points in shares.items()]
    stacks = {name: (OUTCOME_CSS[name], points) for name, points in shares.items()}
    described = f"When last seen: {', '.join(ends)}."
    label = "share of training rollouts"
    drawing = stacked_bars("Outcomes", described, stacks, y_label=label, y_form=percent, y_max=1.0)
    return _chart("Outcomes", "What the verifier says of training rollouts.", drawing)


DRAWINGS: tuple[Callable[[ReportView], Chart | None], ...] = (
    _accuracy,
    _training,
    _pass_at,
    _memory,
    _health,
    _time,
    _outcomes,
)
"""In the order of the page; one that has no data answers None."""


def _describe(lines: Sequence[Series], form: Callable[[float], str] = percent, x_word: str = "step") -> str:
    """What the drawing shows, in words."""
    said = [
        f"{line.label} from {form(line.points[0][1])} at {x_word} {line.points[0][0]:g} "
        f"to {form(line.points[-1][1])} at {x_word} {line.points[-1][0]:g}"
        for line in lines
        if line.points
    ]
    return "; ".join(said) + "."


def _recipe(recipe: dict[str, Any]) -> str:
    """The recipe as YAML, without its prompts, which are shown apart."""
    plain = {key: value for key, value in recipe.items() if key != "prompts"}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=90)
