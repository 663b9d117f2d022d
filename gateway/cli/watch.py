"""Live progress of a run: a display that redraws itself on a terminal, one line per step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from pmd.gateway.cli.client import Gateway, Unreachable
from pmd.gateway.cli.follow import follow
from pmd.gateway.cli.output import console, status
from pmd.gateway.cli.progress import LEVELS, Progress
from pmd.gateway.loop.phases import group_seconds
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report.units import duration, percent, sparkline


def watch(gateway: Gateway, run: str) -> str:
    """Show the progress of `run` until it ends; returns its last status."""
    view: dict[str, Any] = gateway.get(f"/v1/runs/{run}")
    progress = Progress(steps=view["steps"], status=view["status"])
    if console.is_terminal:
        with Live(render(view, progress), console=console, refresh_per_second=4) as live:
            for _ in advance(gateway, run, progress):
                live.update(render(view, progress))
    else:
        notice = ""
        for news in advance(gateway, run, progress):
            for line in news:
                console.print(line, soft_wrap=True, markup=False)
            if progress.notice not in {"", notice}:
                console.print(progress.notice, soft_wrap=True, markup=False)
            notice = progress.notice
    last: dict[str, Any] = gateway.get(f"/v1/runs/{run}")
    console.print(f"{run} {status(last['status'])} after {duration(last['updated'] - last['created'])}")
    if last["error"]:
        console.print(last["error"], style="red", soft_wrap=True, markup=False)
    return str(last["status"])


def advance(gateway: Gateway, run: str, progress: Progress) -> Iterator[list[str]]:
    """Bring `progress` up to date with each event, until the run ends; yields what is new, line by line."""
    for event in follow(gateway, run):
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


def render(run: dict[str, Any], progress: Progress) -> RenderableType:
    """The display of one moment."""
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
        values = [curve[step] for step in sorted(curve)]
        facts.add_row(
            evaluated if split == next(iter(progress.accuracy)) else "",
            f"{split:<7}{percent(values[0]):>5} → [bold]{percent(values[-1]):>5}[/]  [cyan]{sparkline(values)}[/]",
        )
    if progress.pass_rate is not None:
        lead = "" if progress.lead is None else f"   teacher's lead {100 * progress.lead:+.0f} points"
        facts.add_row("training", f"{percent(progress.pass_rate)} of rollouts pass{lead}")
    if progress.memory:
        facts.add_row("memory", "   ".join(f"{progress.memory[level]} {level}s" for level in LEVELS))
    if progress.seconds:
        spent = "   ".join(f"{group} {seconds:.1f}" for group, seconds in group_seconds(progress.seconds).items())
        facts.add_row("seconds", f"[dim]{spent}[/]")
    if progress.notice:
        facts.add_row("notice", f"[yellow]{escape(progress.notice)}[/]")
    return Group(head, facts)
