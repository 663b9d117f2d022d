"""How commands print: tables for people, JSON for scripts, errors on stderr."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gateway.units import duration

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

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
    """One JSON document on stdout, unstyled."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(*columns: str, **options: Any) -> Table:
    """A table in the house style."""
    return Table(*columns, box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0), **options)


def status(word: str) -> str:
    """A run's status, coloured."""
    return f"[{STATUS_STYLE.get(word, 'default')}]{word}[/]"


def age(since: float) -> str:
    """How long ago, in one unit."""
    return duration(max(0.0, time.time() - since)) + " ago"
