"""The report in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pmd.gateway.cli.output import status, table
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report import figures
from pmd.gateway.report.statistics import area, curve
from pmd.gateway.report.units import duration, percent, sparkline
from pmd.gateway.views import ReportView

SAMPLES = 3
SAMPLE_CHARS = 160


def render_terminal(report: ReportView) -> RenderableType:
    """Scores before and after, what it took, and a few memories."""
    evaluated = "with memory" if METHODS[report.run.method].prompts_with_memory else "memory-free"
    scores = table(f"accuracy, {evaluated}", "before", "after", "by step", "change")
    for change in figures.changes(report):
        bars = sparkline(y for _, y in curve(report.steps, change.split))
        scores.add_row(
            change.split, percent(change.before), f"[bold]{percent(change.after)}[/]", f"[cyan]{bars}[/]", change.said
        )
    facts = table("", "", show_header=False)
    run = report.run
    facts.add_row(
        "steps", f"{run.step} of {run.steps}, {figures.rollouts(report)} rollouts, {duration(figures.seconds(report))}"
    )
    if trained := figures.last_update(report):
        facts.add_row("last update", trained)
    if counts := figures.memory_counts(report):
        facts.add_row("memory", ", ".join(f"{n} {level}s" for level, n in counts.items()))
    if begun := figures.start(report):
        facts.add_row("began with", escape(begun))
    for worth in figures.start_worth(report):
        gain = f"{100 * (worth.with_bank - worth.without):+.1f} points"
        told = f"{percent(worth.with_bank)} with it, {percent(worth.without)} without ({gain}), before the first step"
        facts.add_row(f"  on {worth.split}", told)
    for act in figures.memory_events(report):
        facts.add_row("people", escape(act))
    if told := figures.notes(report):
        facts.add_row("notes", told)
    if spent := figures.phase_seconds(report):
        totals = {group: sum(y for _, y in points) for group, points in spent.items()}
        facts.add_row("seconds", ", ".join(f"{group} {total:.0f}" for group, total in totals.items()))
    parts: list[RenderableType] = ["", scores, "", facts]
    parts += [Text(f"waiting: {run.waiting}", style="yellow")] if run.waiting else []
    parts += [Text(run.error, style="red")] if run.error else []
    parts += [Text(f"warning: {warning}", style="yellow") for warning in run.warnings if warning != run.error]
    for level in ("behavior", "insight"):
        if texts := report.memory_samples.get(level):
            parts += ["", f"[bold]{level}s that it wrote[/]"]
            parts += [Text(f"  {_shorten(text)}") for text in texts[:SAMPLES]]
    return Group(*parts, "")


def render_compare_terminal(reports: Sequence[ReportView]) -> Table:
    """Runs side by side: scores and learning curves, a line per split, so that it fits a small terminal."""
    rows = table("run", "method", "status", "time", "split", "accuracy", "mean", "curve")
    for report in reports:
        head = [report.run.id, report.run.method, status(report.run.status), duration(figures.seconds(report))]
        for change in figures.changes(report):
            points = curve(report.steps, change.split)
            rows.add_row(
                *head,
                change.split,
                f"{percent(change.before)} → [bold]{percent(change.after)}[/]",
                percent(area(points)),
                f"[cyan]{sparkline(y for _, y in points)}[/]",
            )
            head = [""] * len(head)
        if any(head):
            rows.add_row(*head, "–", "–", "–", "")
    return rows


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SAMPLE_CHARS else line[: SAMPLE_CHARS - 1] + "…"
