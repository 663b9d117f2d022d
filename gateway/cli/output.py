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
from rich.text import Text

from pmd.gateway.cli.client import PAGE, CliError, connect
from pmd.gateway.report.units import duration

PIPE_WIDTH = 240
"""Characters of a line where no terminal says how many it shows: a table's row is then one line, for grep and awk."""

COPIED = frozenset({"id", "run", "item", "proposal", "problem", "about", "in the other", "only in", "name", "url"})
"""Columns whose cells are copied into the next command: they are never broken over lines."""
WORDS = 24
"""Characters that every other column has room for, if it needs them."""
COMPLETION_S = 2.0
"""How long who presses the tab key waits for the gateway."""


def line_width() -> int | None:
    """`PIPE_WIDTH`, or None where rich finds out itself: from a terminal, or from COLUMNS, the user's own word."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH


console = Console(highlight=False, emoji=False, width=line_width())
errors = Console(stderr=True, highlight=False)


def run_id(text: str) -> str:
    """`text`, if it can name a run: what it is put into is a path of the gateway.

    Raises:
        CliError: when it can't.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text):
        raise CliError(f"{text!r} is no id of a run; see `pmd runs list`", code=2)
    return text


def known_runs(incomplete: str) -> list[str]:
    """Ids of runs that a shell may complete `incomplete` to; none where no gateway answers at once."""
    try:
        views = connect(COMPLETION_S).get("/v1/runs", limit=PAGE)
        return [view["id"] for view in views if view["id"].startswith(incomplete)]
    except CliError:
        return []


RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Id of the run or its beginning; see `pmd runs list`.",
        parser=run_id,
        autocompletion=known_runs,
    ),
]
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
    """A table in the house style; what does not fit goes on in the next line, but what is to be copied."""
    made = Table(*columns, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), **options)
    for column in made.columns:
        column.overflow, column.no_wrap = "fold", column.header in COPIED
    return made


def print_table(rows: Table | str) -> None:
    """Print a table, or what is to be said in its place. Where the terminal is too narrow for the cells that are
    copied and some words beside them, it breaks the row, which can still be copied whole."""
    if isinstance(rows, str):
        console.print(rows)
        return
    room = 0
    for column in rows.columns:
        widest = max(Text.from_markup(str(cell)).cell_len for cell in (column.header, *column.cells))
        room += 2 + (widest if column.no_wrap else min(widest, WORDS))
    (console if console.width >= room else Console(highlight=False, emoji=False, width=room)).print(rows)


def status(word: str) -> str:
    """A run's status, coloured."""
    return f"[{STATUS_STYLE.get(word, 'default')}]{word}[/]"


def age(since: float) -> str:
    """How long ago, in one unit."""
    return duration(max(0.0, time.time() - since)) + " ago"
