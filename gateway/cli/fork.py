"""`pmd runs fork`: go on from a step of a run, otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.output import AsJson, RunId, console, print_json
from pmd.gateway.cli.watch import watch as watch_run

app = typer.Typer()


@app.command("fork")
def fork(
    run: RunId,
    at: Annotated[int | None, typer.Option(min=0, help="Step to begin from; the newest with weights, if missing.")] = (
        None
    ),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. optimizer.lr=0.0001.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run from the weights and the memory that another run had after a step.

    It has that run's recipe, with what --set changes; its steps are counted from 0 and its optimizer begins anew.
    `--set memory.start_from=null` begins with an empty memory.
    """
    from pmd.gateway.recipes.files import RecipeError, parse_overrides, resolve  # noqa: PLC0415 - loads pyarrow

    try:
        changes = resolve(parse_overrides(overrides or []), Path.cwd(), "--set")
    except RecipeError as error:
        raise CliError(str(error), code=2) from error
    gateway = connect()
    made = gateway.post(f"/v1/runs/{run}:fork", {"step": at, "set": changes})
    if as_json:
        print_json(made)
    else:
        parent = made["parent"]
        memory = "" if parent["seq"] is None else f" and its memory (seq {parent['seq']})"
        begun = f"with {parent['run']}'s weights of step {parent['step']}{memory}"
        console.print(f"run [bold]{made['id']}[/] started {begun}: {made['steps']} steps", soft_wrap=True)
    if watch and watch_run(gateway, made["id"]) != "succeeded":
        raise typer.Exit(1)
