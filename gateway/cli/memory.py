"""`pmd memory`: read what a run remembers."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from gateway.cli.client import CliError, connect
from gateway.cli.output import AsJson, console, print_json, table
from gateway.cli.progress import LEVELS

app = typer.Typer(no_args_is_help=True, help="Read what a run remembers.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


@app.command("list")
def list_items(
    run: RunId,
    level: Annotated[str | None, typer.Option(help="experience, insight or behavior.")] = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="Only items that match these words.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Items per page.")] = 20,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List memories, newest first."""
    if level is not None and level not in LEVELS:
        raise CliError(f"no memory level {level!r}; levels are {', '.join(LEVELS)}", code=2)
    page = connect().get(f"/v1/runs/{run}/memory", level=level, q=query, limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    rows = table("id", "level", "kind", "support", "worked", "step", "text")
    for item in page["items"]:
        rows.add_row(
            item["id"],
            item["level"],
            item["kind"],
            "" if item["support"] is None else str(item["support"]),
            _worked(item),
            str(item["step"]),
            escape(_first_line(item["text"])),
        )
    console.print(rows if page["items"] else "nothing remembered")
    if page["next"] is not None:
        console.print(f"more: --after {page['next']}", soft_wrap=True)


@app.command("show")
def show(run: RunId, item: Annotated[str, typer.Argument(help="Id of the memory.")], as_json: AsJson = False) -> None:
    """Show one memory: text, evidence, what it was made from, and its versions."""
    found = connect().get(f"/v1/runs/{run}/memory/{item}")
    if as_json:
        print_json(found)
        return
    now = found["item"]
    console.print(now["text"], markup=False, soft_wrap=True)
    console.print()
    facts = table("", "", show_header=False)
    for key, value in now.items():
        if key != "text" and value not in (None, "", []):
            shown = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.add_row(f"[dim]{key}[/]", escape(shown))
    console.print(facts)
    if len(found["history"]) > 1:
        versions = table("version", "step", "by", "status", "text")
        for each in found["history"]:
            about = (str(each["version"]), str(each["step"]), escape(each["actor"]), each["status"])
            versions.add_row(*about, escape(_first_line(each["text"])))
        console.print()
        console.print(versions)


def _worked(item: dict[str, Any]) -> str:
    """Successes of trials, when the item was ever tried."""
    return f"{item['successes']}/{item['trials']}" if item["trials"] else ""


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 100 else line[:99] + "…"
