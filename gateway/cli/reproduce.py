"""`pmd reproduce`: every method and ablation over several worlds, resumable, with a table and curves."""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import pmd
from pmd.gateway.cli.client import CliError, Gateway, connect
from pmd.gateway.cli.follow import ENDS
from pmd.gateway.cli.output import console
from pmd.gateway.cli.runs import check_recipe
from pmd.gateway.local.launcher import default_state_dir

POLL_S = 2.0
RECIPES = Path(pmd.__file__).parent / "recipes"


class StudyName(StrEnum):
    """Benchmarks that `pmd reproduce` runs."""

    POCKET = "pocket"
    REAL = "real"


def reproduce(
    name: Annotated[StudyName, typer.Argument(metavar="BENCHMARK", help="pocket or real.")] = StudyName.POCKET,
    out: Annotated[Path, typer.Option(help="Folder for the table and the curves.")] = Path("docs/results"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Worlds per variant; of pocket 6, of real all that there are, 3.")
    ] = None,
    first_seed: Annotated[
        int | None, typer.Option(min=0, help="First of them: seed n is world n; of pocket 0, of real 1.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--setting", help="code-hard, code-easy, choice-hard, choice-easy; signs, words. Default all."),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--variant", help="A method or an ablation; default all of its recipes.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override for every run.")
    ] = None,
    at_once: Annotated[int, typer.Option("--jobs", min=1, max=8, help="Runs at a time; one a core is best.")] = 2,
) -> None:
    """Run the comparison of docs/results/pocket.md, or of real.md. Interrupt it at will: it goes on where it stopped.

    What earlier calls measured and this one does not run stays in the table: one more world is a call of its own.
    """
    from pmd.gateway.recipes.files import parse_overrides  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.report import results  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.report.study import STUDIES, Cell, recipe_key  # noqa: PLC0415
    from pmd.gateway.views import ReportView  # noqa: PLC0415

    study = STUDIES[name]
    table = out / f"{study.name}.csv"
    known = study.variants(RECIPES)
    chosen = names or list(known)
    wanted = [s for s in study.settings if not settings or str(s) in settings]
    unknown = (set(chosen) - set(known)) | (set(settings or ()) - {str(s) for s in study.settings})
    if unknown:
        raise CliError(
            f"unknown variant or setting: {', '.join(sorted(unknown))}; variants: {', '.join(known)}", code=2
        )
    known_worlds = study.worlds or range(6)
    first = known_worlds.start if first_seed is None else first_seed
    worlds = range(first, first + (seeds or len(known_worlds)))
    if study.worlds and not set(worlds) <= set(study.worlds):
        raise CliError(f"{study.name} has the seeds {study.worlds.start} to {study.worlds.stop - 1}", code=2)
    if overrides and table.exists():
        raise CliError(
            f"{table} holds runs without --set, which other recipes can't stand beside; name another folder with --out",
            code=2,
        )
    cache = default_state_dir() / "reproduce"
    cache.mkdir(parents=True, exist_ok=True)
    gateway = connect()
    cells = [Cell(setting, name, seed) for setting in wanted for seed in worlds for name in chosen]
    recipes = {cell: study.cell_recipe(cell, RECIPES, parse_overrides(overrides or [])) for cell in cells}
    for recipe in recipes.values():
        check_recipe(recipe)
    paths = {cell: cache / f"{cell.name}.{recipe_key(recipe)[-12:]}.json" for cell, recipe in recipes.items()}
    todo = [cell for cell in cells if not paths[cell].exists()]
    by_run: dict[tuple[str, str, int], list[results.Measurement]] = {}
    for line in results.read(table):
        by_run.setdefault(line.run, []).append(line)

    def take(cell: Cell, report: dict[str, Any]) -> None:
        view = ReportView.model_validate(report)
        by_run[str(cell.setting), cell.variant, cell.seed] = results.measurements(
            cell.setting, cell.variant, cell.seed, view
        )

    for cell in set(cells) - set(todo):
        take(cell, json.loads(paths[cell].read_text(encoding="utf-8")))
    _about(study.name, out)
    for number, (cell, report) in enumerate(_run_all(gateway, recipes, todo, at_once), len(cells) - len(todo) + 1):
        part = paths[cell].with_suffix(".tmp")
        part.write_text(json.dumps(report), encoding="utf-8")
        part.replace(paths[cell])
        take(cell, report)
        console.print(f"[{number}/{len(cells)}] {cell.name}", highlight=False)
        results.write(study, out, itertools.chain.from_iterable(by_run.values()))
    results.write(study, out, itertools.chain.from_iterable(by_run.values()))
    console.print(f"written: {out / study.name}.md")


def _run_all(
    gateway: Gateway, recipes: Mapping[Any, dict[str, Any]], cells: Sequence[Any], at_once: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The cells and their reports as their runs end, at most `at_once` of them running.

    A run that an interrupted call has started is found by its key and waited for.
    """
    from pmd.gateway.report.study import recipe_key  # noqa: PLC0415

    waiting = deque(cells)
    running: dict[str, Any] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            cell = waiting.popleft()
            key = {"Idempotency-Key": recipe_key(recipes[cell])}
            running[gateway.post("/v1/runs", {"recipe": recipes[cell]}, headers=key)["id"]] = cell
        time.sleep(POLL_S)
        for run in list(running):
            view = gateway.get(f"/v1/runs/{run}")
            if view["status"] not in ENDS:
                continue
            if view["status"] != "succeeded":
                raise CliError(f"run {run} {view['status']}: {view['error']}; mend it, then `pmd runs resume`")
            yield running.pop(run), gateway.get(f"/v1/runs/{run}/report")


def _about(study: str, out: Path) -> None:
    """Where and how the runs were made, for people to go on with; what stands there already stays."""
    about = out / f"about-{study}.md"
    if about.exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    about.write_text(
        f"## How it was made\n\n{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, by `pmd {' '.join(sys.argv[1:])}`.\n",
        encoding="utf-8",
    )
