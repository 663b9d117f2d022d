"""Live progress of a run: a display that redraws itself on a terminal, one line per step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from pmd.gateway.cli.chart import Chart
from pmd.gateway.cli.client import Gateway, Unreachable
from pmd.gateway.cli.follow import follow
from pmd.gateway.cli.output import console, status
from pmd.gateway.cli.progress import LEVELS, Progress
from pmd.gateway.loop.phases import group_seconds
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report.units import completions, duration, percent, training

LOWEST, HIGHEST = 4, 10
"""Lines of the curves."""
LINES = 14
"""What the rest of the display takes, with some warnings."""


def watch(gateway: Gateway, run: str) -> str:
    """Show the progress of `run` until it ends; returns its last status.

    Raises:
        KeyboardInterrupt: when the person at the terminal has seen enough, who is told that the run goes on.
    """
    view: dict[str, Any] = gateway.get(f"/v1/runs/{run}")
    run = view["id"]
    progress = Progress(steps=view["steps"], status=view["status"])
    try:
        if console.is_terminal:
            _show_live(gateway, run, view, progress)
        else:
            _print_lines(gateway, run, progress)
    except KeyboardInterrupt:
        console.print(f"\n{run} goes on; `pmd runs watch {run}` shows it again,", soft_wrap=True, markup=False)
        console.print(f"`pmd runs pause {run}` or `pmd runs cancel {run}` stops it", soft_wrap=True, markup=False)
        raise
    last: dict[str, Any] = gateway.get(f"/v1/runs/{run}")
    but = ", but" if last["status"] == "succeeded" and last["warnings"] else ""
    after = duration(last["updated"] - last["created"])
    console.print(f"{run} {status(last['status'])} after {after}{but}", soft_wrap=True)
    for warning in last["warnings"]:
        console.print(f"  {warning}", style="yellow", soft_wrap=True, markup=False)
    if last["error"]:
        console.print(last["error"], style="red", soft_wrap=True, markup=False)
    return str(last["status"])


def _show_live(gateway: Gateway, run: str, view: dict[str, Any], progress: Progress) -> None:
    with Live(render(view, progress, console.height), console=console, refresh_per_second=4) as live:

        def quiet() -> None:
            look(gateway, run, progress)
            live.update(render(view, progress, console.height))

        for _ in advance(gateway, run, progress, quiet):
            live.update(render(view, progress, console.height))


def _print_lines(gateway: Gateway, run: str, progress: Progress) -> None:
    said: set[str] = set()

    def warn() -> None:
        for warning in progress.warnings.values():
            if warning not in said:
                console.print(warning, soft_wrap=True, markup=False)
        said.update(progress.warnings.values())

    def quiet() -> None:
        look(gateway, run, progress)
        warn()

    notice = ""
    for news in advance(gateway, run, progress, quiet):
        for line in news:
            console.print(line, soft_wrap=True, markup=False)
        warn()
        if progress.notice not in {"", notice}:
            console.print(progress.notice, soft_wrap=True, markup=False)
        notice = progress.notice


def look(gateway: Gateway, run: str, progress: Progress) -> None:
    """Ask for what the log can't say, as that the disk which it is written to is full."""
    try:
        warnings = gateway.get(f"/v1/runs/{run}").get("warnings", [])
    except Unreachable:
        return
    full = [each for each in warnings if each.startswith("now ")]
    progress.warnings.pop("now", None)
    if full:
        progress.warnings["now"] = full[0]


def advance(
    gateway: Gateway, run: str, progress: Progress, quiet: Callable[[], None] = lambda: None
) -> Iterator[list[str]]:
    """Bring `progress` up to date with each event, until the run ends; yields what is new, line by line."""
    for event in follow(gateway, run, quiet=quiet):
        progress.apply(event)
        news = []
        # One report holds all steps so far, so that replaying a long log asks for it once.
        if event["type"] == "step.completed" and event["payload"]["step"] > progress.done:
            news = recorded(gateway, run, progress)
        yield news
    yield recorded(gateway, run, progress)


def recorded(gateway: Gateway, run: str, progress: Progress) -> list[str]:
    """Take in the steps that the run has recorded; a gateway that is away will be asked again at the next step."""
    try:
        return progress.record(gateway.get(f"/v1/runs/{run}/report")["steps"])
    except Unreachable:
        return []


def render(run: dict[str, Any], progress: Progress, room: int = 24) -> RenderableType:
    """The display of one moment, in `room` lines."""
    head = Table.grid(padding=(0, 2), expand=False)
    bar = ProgressBar(total=max(1, progress.steps), completed=progress.done, width=32, complete_style="cyan")
    doing = f"[dim]{progress.phase}[/]" if progress.phase else ""
    head.add_row(
        f"[bold]{escape(run['name'])}[/] {run['method']}", bar, f"step {progress.done}/{progress.steps}", doing
    )

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", min_width=12)
    evaluated = "accuracy with memory" if METHODS[run["method"]].prompts_with_memory else "memory-free accuracy"
    for split, curve in progress.accuracy.items():
        first, last = percent(curve[min(curve)]), percent(curve[max(curve)])
        facts.add_row(
            evaluated if split == next(iter(progress.accuracy)) else "", f"{split:<7}{first:>5} → [bold]{last:>5}[/]"
        )
    if progress.pass_rate is not None:
        lead = "" if progress.lead is None else f"   teacher's lead {100 * progress.lead:+.0f} points"
        facts.add_row("training", f"{percent(progress.pass_rate)} of rollouts pass{lead}")
    if progress.train:
        facts.add_row("last update", f"[dim]{training(progress.train)}[/]")
    if told := completions(progress.health):
        facts.add_row("completions", f"[dim]{told}[/]")
    if progress.memory:
        facts.add_row("memory", "   ".join(f"{progress.memory[level]} {level}s" for level in LEVELS))
    if progress.seconds:
        spent = "   ".join(f"{group} {seconds:.1f}" for group, seconds in group_seconds(progress.seconds).items())
        facts.add_row("seconds", f"[dim]{spent}[/]")
    for number, warning in enumerate(progress.warnings.values()):
        facts.add_row("" if number else "warnings", f"[yellow]{escape(warning)}[/]")
    if progress.notice:
        facts.add_row("notice", f"[yellow]{escape(progress.notice)}[/]")
    return Group(head, *_curves(progress, room), facts)


def _curves(progress: Progress, room: int) -> list[RenderableType]:
    """Accuracy by split and the teacher's lead, where there are curves to draw and lines to draw them in."""
    height = min(HIGHEST, room - LINES)
    curves: dict[str, dict[int, float]] = dict(progress.accuracy)
    notes = {}
    if progress.leads:
        curves["teacher's lead"] = progress.leads
        notes["teacher's lead"] = f"{100 * progress.leads[max(progress.leads)]:+.0f} points"
    if height < LOWEST or all(len(points) < 2 for points in curves.values()):
        return []
    return [Chart(curves, progress.steps, height, notes)]
