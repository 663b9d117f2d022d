"""`pmd runs delete`: a run with all that was made of it, after a look at what that is."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from pmd.gateway.cli.client import CliError, Gateway, Unreachable, connect
from pmd.gateway.cli.output import AsJson, RunId, console, print_json, status

POLL_S = 1.0
PATIENCE_S = 900.0
"""How long a gateway that does not answer is asked again."""

app = typer.Typer()


@app.command("delete")
def delete(
    run: RunId,
    force: Annotated[bool, typer.Option("--force", help="Cancel it first, if it has not ended.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a run for good: its record, artifacts, weights and memory. An interrupted deletion is finished by another.

    `pmd export` and `pmd memory export` keep a copy of what is worth it.
    """
    gateway = connect()
    view = gateway.get(f"/v1/runs/{run}")
    run = view["id"]
    found = remove(gateway, run, force=force, dry_run=True)
    if not as_json:
        steps = f"step {view['step']} of {view['steps']}"
        console.print(f"[bold]{run}[/] ({escape(view['name'])}), {status(view['status'])}, {steps}", soft_wrap=True)
        console.print(f"goes for good: {said(found)}", soft_wrap=True)
    if not yes:
        if not at_terminal():
            raise CliError("nothing was deleted; --yes does it without asking", code=2)
        if not typer.confirm("Delete it?"):
            raise CliError("nothing was deleted")
    done = until_done(gateway, run, force=force)
    if as_json:
        print_json(done)
    else:
        # Nothing is left for the answer to a request that was repeated.
        console.print(f"{run} is deleted; {size(done['bytes'] or found['bytes'])} freed", soft_wrap=True)


def at_terminal() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin.isatty()


def remove(gateway: Gateway, run: str, *, force: bool, dry_run: bool = False) -> dict[str, Any]:
    """What the gateway answers to the deletion of a run, or to the question what it would do."""
    answer: dict[str, Any] = gateway.delete(
        f"/v1/runs/{run}", {}, force="true" if force else None, dry_run="true" if dry_run else None
    )
    return answer


def until_done(gateway: Gateway, run: str, *, force: bool) -> dict[str, Any]:
    """Delete a run, saying what is waited for before. A gateway that removes for longer than an answer is waited for is
    asked again.

    Raises:
        Unreachable: it has not answered for `PATIENCE_S`.
    """
    told = ""
    until = time.monotonic() + PATIENCE_S
    try:
        while True:
            try:
                answer = remove(gateway, run, force=force)
            except Unreachable as error:
                if time.monotonic() > until:
                    raise
                waiting = str(error)
            else:
                if answer["done"]:
                    return answer
                waiting, until = answer["waiting"], time.monotonic() + PATIENCE_S
            if waiting != told:
                told = waiting
                typer.echo(f"waiting: {told}", err=True)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        typer.echo(f"\n{run} is not deleted yet; `pmd runs delete {run}` goes on", err=True)
        raise typer.Exit(130) from None


def said(found: dict[str, Any]) -> str:
    """What is removed, in words."""
    memory = ", ".join(f"{count} {level}s" for level, count in found["memory"].items())
    parts = [
        f"{found['files']} files, {size(found['bytes'])}",
        f"the weights of {found['versions']} policy version{'' if found['versions'] == 1 else 's'}",
        f"its memory ({memory})" if memory else "",
        "its record: steps, events, metrics, checkpoints to go on from",
    ]
    return "; ".join(filter(None, parts))


def size(count: int) -> str:
    """Bytes, in the unit in which they are read."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
