"""`pmd reproduce`: every method and ablation over several worlds, resumable, with a table and curves."""

from __future__ import annotations

import csv
import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
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


def reproduce(
    out: Annotated[Path, typer.Option(help="Folder for the table and the curves.")] = Path("docs/results"),
    seeds: Annotated[int, typer.Option(min=1, help="Worlds per variant: seeds 0 to N - 1.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--setting", help="code-hard, code-easy, choice-hard, choice-easy; default all.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--variant", help="A method or an ablation; default all of recipes/pocket.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override for every run.")
    ] = None,
    at_once: Annotated[int, typer.Option("--jobs", min=1, max=8, help="Runs at a time; one a core is best.")] = 2,
) -> None:
    """Run the comparison of docs/results/pocket.md. Interrupt it at will: it goes on where it stopped."""
    from pmd.gateway.recipes.files import parse_overrides  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.report.study import SETTINGS, Cell, cell_recipe, recipe_key, variants  # noqa: PLC0415
    from pmd.gateway.views import ReportView  # noqa: PLC0415

    known = variants(RECIPES)
    chosen = names or list(known)
    wanted = [s for s in SETTINGS if not settings or str(s) in settings]
    unknown = (set(chosen) - set(known)) | (set(settings or ()) - {str(s) for s in SETTINGS})
    if unknown:
        raise CliError(
            f"unknown variant or setting: {', '.join(sorted(unknown))}; variants: {', '.join(known)}", code=2
        )
    cache = default_state_dir() / "reproduce"
    cache.mkdir(parents=True, exist_ok=True)
    gateway = connect()
    reports: dict[Any, dict[str, dict[int, ReportView]]] = {s: {name: {} for name in chosen} for s in wanted}
    cells = [
        Cell(setting, name, seed)
        for setting in wanted
        for seed in range(first_seed, first_seed + seeds)
        for name in chosen
    ]
    recipes = {cell: cell_recipe(cell, RECIPES, parse_overrides(overrides or [])) for cell in cells}
    for recipe in recipes.values():
        check_recipe(recipe)
    paths = {cell: cache / f"{cell.name}.{recipe_key(recipe)[-12:]}.json" for cell, recipe in recipes.items()}
    todo = [cell for cell in cells if not paths[cell].exists()]
    for cell in set(cells) - set(todo):
        reports[cell.setting][cell.variant][cell.seed] = ReportView.model_validate_json(paths[cell].read_text())
    _write(out, reports)
    for number, (cell, report) in enumerate(_run_all(gateway, recipes, todo, at_once), len(cells) - len(todo) + 1):
        part = paths[cell].with_suffix(".tmp")
        part.write_text(json.dumps(report))
        part.replace(paths[cell])
        reports[cell.setting][cell.variant][cell.seed] = ReportView.model_validate(report)
        console.print(f"[{number}/{len(cells)}] {cell.name}", highlight=False)
        _write(out, reports)
    console.print(f"written: {out / 'pocket.md'}")


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


def _write(out: Path, reports: dict[Any, Any]) -> None:
    """The page of results, from what is there so far."""
    from pmd.gateway.report.curves import curve_chart  # noqa: PLC0415
    from pmd.gateway.report.study import COLUMNS, SPLITS, markdown, mean_curves, measurements, rows  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Pocket benchmark: results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}. Made by `pmd {' '.join(sys.argv[1:])}`; `make reproduce-pocket` runs it all. "
        "All evaluations are in [pocket.csv](pocket.csv).",
        "",
    ]
    measured: list[tuple[str | int | float, ...]] = []
    for setting, by_variant in reports.items():
        done = {name: by_seed for name, by_seed in by_variant.items() if by_seed}
        if not done:
            continue
        measured += measurements(setting, done)
        parts.append(markdown(setting, rows(done)))
        worlds = max(map(len, done.values()))  # means over fewer are of other worlds, and no curve beside these
        drawn = {name: by_seed for name, by_seed in done.items() if len(by_seed) == worlds}
        for split in SPLITS:
            name = f"pocket-{setting}-{split}.svg"
            (out / name).write_text(curve_chart(f"{setting}, {split}", mean_curves(drawn, split)), encoding="utf-8")
            parts.append(f"![Mean learning curves, {setting}, {split}]({name})\n")
    with (out / "pocket.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *measured])
    (out / "pocket.md").write_text("\n".join(parts), encoding="utf-8")
