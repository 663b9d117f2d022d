"""How commands print: tables for people, JSON for scripts, errors on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pmd.gateway.cli.client import CliError
from pmd.gateway.report.units import duration

PIPE_WIDTH = 240
"""Characters of a line where no terminal says how many it shows: a table's row is then one line, for grep and awk."""

ROOM = 60
"""Characters that the rest of a row of runs takes."""


def line_width() -> int | None:
    """`PIPE_WIDTH`, or None where rich finds out itself: from a terminal, or from COLUMNS, the user's own word."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH


console = Console(highlight=False, width=line_width())
errors = Console(stderr=True, highlight=False)


def run_id(text: str) -> str:
    """`text`, if it can name a run: what it is put into is a path of the gateway.

    Raises:
        CliError: when it can't.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text):
        raise CliError(f"{text!r} is no id of a run; see `pmd runs list`", code=2)
    return text


RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run; see `pmd runs list`.", parser=run_id)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

STATUS_STYLE = {
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "queued": "dim",
}


def print_json(value: Any) -> None:
    """One JSON document on stdout, unstyled; nothing in it is lost where stdout can't write it."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    typer.echo(json.dumps(value, indent=2, ensure_ascii=plain))


def table(*columns: str, **options: Any) -> Table:
    """A table in the house style; what does not fit goes on in the next line, so that ids can be copied."""
    made = Table(*columns, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), **options)
    for column in made.columns:
        column.overflow = "fold"
    return made


def print_rows(rows: Table, longest: int) -> None:
    """Print a table whose first column, of `longest` characters, is copied: it is never broken over lines. Where the
    rest has no room beside it, the terminal breaks the row."""
    room = longest + ROOM
    (console if console.width >= room else Console(highlight=False, width=room)).print(rows)


def status(word: str) -> str:
    """A run's status, coloured."""
    return f"[{STATUS_STYLE.get(word, 'default')}]{word}[/]"


def age(since: float) -> str:
    """How long ago, in one unit."""
    return duration(max(0.0, time.time() - since)) + " ago"
