"""`pmd logs`: what the programs of the installation on this machine wrote, readable, and what they write now."""

from __future__ import annotations

import difflib
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.output import console, run_id
from pmd.gateway.cli.up import StateDir
from pmd.gateway.local.logs import Line, LogFile, runs, sources, training

POLL_S = 0.3
LEVEL_STYLE = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
SHOWN = frozenset({"ts", "level", "service", "logger", "message", "traceback", "color_message"})
"""Fields of a record that have a place of their own, or say it again in colours."""


def logs(
    state_dir: StateDir,
    service: Annotated[
        str | None, typer.Argument(help="One program, as `pmd status` names it; all if missing.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Only what is about this run, its training's output too.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    raw: Annotated[bool, typer.Option("--raw", help="Lines as they were written: JSON, mostly.")] = False,
) -> None:
    """Show the logs of the installation that `pmd up` started on this machine, whether or not it still runs."""
    state_dir = state_dir.absolute()
    about = "" if run is None else known(run_id(run), state_dir)
    files = [(LogFile(name, path), about) for name, path in chosen(service, state_dir).items()]
    if about and service in {None, "trainer"} and (path := training(state_dir).get(about)):
        files.append((LogFile("training", path), ""))  # all of it is about the run
    try:
        # Sorting is stable: lines of one file that don't say when stay behind the line that did.
        found = sorted((line for file, word in files for line in file.last(lines, word)), key=lambda line: line.at)
        for line in found[-lines:]:
            show(line, raw=raw)
        if not found and not follow:
            console.print(f"nothing is written about {about}" if about else "nothing is written yet", soft_wrap=True)
        while follow:
            time.sleep(POLL_S)
            for line in sorted((line for file, word in files for line in file.new(word)), key=lambda line: line.at):
                show(line, raw=raw)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        for file, _ in files:
            file.close()


def chosen(service: str | None, state_dir: Path) -> dict[str, Path]:
    """The logs to show, by the names of their programs.

    Raises:
        CliError: there are none.
    """
    there = sources(state_dir)
    if not there:
        url = os.environ.get("PMD_URL")
        elsewhere = f"; those of {url} are where its services run" if url else ""
        raise CliError(f"no logs in {state_dir / 'logs'}: nothing was started there with `pmd up`{elsewhere}")
    if service is None:
        return there
    if service not in there:
        near = difflib.get_close_matches(service, there, 1)
        guess = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(there)}"
        raise CliError(f"no log of {service!r} in {state_dir / 'logs'}; {guess}", code=2)
    return {service: there[service]}


def known(run: str, state_dir: Path) -> str:
    """The whole id of a run of which the beginning is given, as far as its files are on this machine.

    Raises:
        CliError: when several runs begin so.
    """
    found = [each for each in runs(state_dir) if each.startswith(run)]
    if run in found or not found:
        return run
    if len(found) > 1:
        raise CliError(f"{run!r} begins {len(found)} ids: {', '.join(found[:5])}; give more of it", code=2)
    return found[0]


def show(line: Line, *, raw: bool) -> None:
    """Print one line."""
    record = line.record
    if raw:
        typer.echo(line.raw)
        return
    if record is None:
        console.print(f"{line.source}: {line.raw}", markup=False, soft_wrap=True)
        return
    level = str(record.get("level", ""))
    said = Text(f"{line.at.replace('T', ' ').removesuffix('Z')}  {line.source:<10}", style="dim")
    said.append(f" {level:<8}", LEVEL_STYLE.get(level, "dim"))
    said.append(str(record["message"]), LEVEL_STYLE.get(level, "default"))
    rest = "  ".join(f"{name}={value}" for name, value in record.items() if name not in SHOWN)
    said.append(f"  {rest}" if rest else "", "dim")
    console.print(said, soft_wrap=True)
    if record.get("traceback"):
        console.print(record["traceback"], style="dim", markup=False, soft_wrap=True)
