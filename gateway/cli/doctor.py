"""`pmd doctor`: what is wrong with the installation on this machine, and what to do."""

from __future__ import annotations

import dataclasses
import os

import typer
from rich.markup import escape

from pmd.gateway.cli.output import AsJson, console, print_json
from pmd.gateway.cli.up import StateDir

STYLE = {"ok": "green", "warning": "yellow", "error": "red"}
EXITS = {"ok": 0, "warning": 1, "error": 2}


def doctor(state_dir: StateDir, as_json: AsJson = False) -> None:
    """Find what is wrong with this installation, and say what to do. Exit code 1 for warnings, 2 for errors."""
    from pmd.gateway.cli.checks import Place, examine  # noqa: PLC0415 - loads pyarrow

    found = examine(Place(state_dir.absolute(), os.environ))
    if as_json:
        print_json([dataclasses.asdict(each) for each in found])
    else:
        for each in found:
            told = f": {escape(each.said)}" if each.said else ""
            console.print(f"[{STYLE[each.severity]}]{each.severity:<8}[/]{each.about}{told}", soft_wrap=True)
            if each.fix:
                console.print(f"        [bold]do:[/] {escape(each.fix)}", soft_wrap=True)
    raise typer.Exit(max(EXITS[each.severity] for each in found))
