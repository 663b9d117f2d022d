"""`pmd quickstart`: the whole loop on this machine, from nothing to a report."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from shutil import which
from typing import Annotated

import typer
from rich.markup import escape

import pmd
from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.output import console
from pmd.gateway.cli.runs import check_recipe, read_recipe, submit, write_report
from pmd.gateway.cli.up import StateDir, await_services, start_services
from pmd.gateway.cli.watch import watch
from pmd.gateway.local import launcher
from pmd.gateway.report.units import duration

POCKET_QUESTION = "Write solve(a): apply zor-mil, then negate each."


def quickstart(
    state_dir: StateDir,
    recipe: Annotated[Path | None, typer.Option(help="Recipe to run.", show_default="recipes/pocket.yaml")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. schedule.steps=4.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Leave the services running at the end.")] = False,
) -> None:
    """Start everything, let the bundled model learn the bundled benchmark, show what it learnt."""
    for each in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal ends it as Ctrl-C does
        signal.signal(each, signal.default_int_handler)
    began = time.monotonic()
    state_dir = state_dir.absolute()
    data = read_recipe(recipe or default_recipe(), overrides or [])
    check_recipe(data)  # before services are started for it
    started = False
    run = ""
    try:
        started = start_services(state_dir)  # known before waiting: Ctrl-C may come while they start
        await_services(state_dir, timeout_s=180.0)
        api = connect()
        view = submit(api, data)
        run = view["id"]
        console.print(f"run [bold]{run}[/]: {view['steps']} steps")
        ended = watch(api, run)
        page = write_report(api.get(f"/v1/runs/{run}/report"), state_dir / "reports" / f"{run}.html")
        console.print(
            f"\n{duration(time.monotonic() - began)} in all. The report: [bold]{escape(str(page))}[/]", soft_wrap=True
        )
        if ended != "succeeded":
            raise CliError(f"run {run} {ended}; logs are in {state_dir / 'logs'}")
        question = POCKET_QUESTION if data["problems"].get("source") == "pocket" else ""
        suggest(run, question, up=started and not keep)
    except KeyboardInterrupt:
        keep = False
        resumed = " at the next `pmd up`" if started else f"; see `pmd runs watch {run}`"
        console.print("\ninterrupted" + (f"; run {run} goes on{resumed}" if run else ""))
        raise typer.Exit(130) from None
    finally:
        if started and not keep and launcher.stop(state_dir):
            console.print("[dim]the services that this command started are stopped[/]")


def default_recipe() -> Path:
    """The bundled recipe, `pocket.yaml`."""
    return Path(pmd.__file__).parent / "recipes" / "pocket.yaml"


def suggest(run: str, question: str, *, up: bool) -> None:
    """Say what to try next, with a question that the model may be asked if there is one."""
    console.print("\nTry next:")
    # In a virtual environment that is not activated `pmd` is not on the path: say where this one is.
    program = "pmd" if which("pmd") else os.path.relpath(sys.argv[0])
    first = f"{program} up && " if up else ""
    asked = f' --prompt "{question}"' if question else ""
    for command, why in (
        (f"{first}{program} chat {run}{asked}", "ask the trained model; no memory is attached"),
        (f"{first}{program} memory list {run}", "what it remembers"),
        (f"{first}{program} export {run} --to ./{run}", "take the weights away"),
    ):
        console.print(f"  [bold]{escape(command)}[/]  [dim]# {why}[/]", soft_wrap=True)
