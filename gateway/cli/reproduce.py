"""`pmd reproduce`: every method and ablation over several worlds, resumable, with a table and curves."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.client import CliError, Gateway, connect
from gateway.cli.follow import follow
from gateway.cli.output import console
from gateway.cli.runs import check_recipe
from gateway.launcher import default_state_dir

RECIPES = Path(__file__).parents[2] / "recipes"


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
) -> None:
    """Run the comparison of docs/results/pocket.md. Interrupt it at will: it goes on where it stopped."""
    from gateway.recipe import parse_overrides  # noqa: PLC0415 - loads pyarrow
    from gateway.reproduction import SETTINGS, Cell, cell_recipe, recipe_key, variants  # noqa: PLC0415
    from gateway.views import ReportView  # noqa: PLC0415

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
    for number, cell in enumerate(cells, 1):
        recipe = cell_recipe(cell, RECIPES, parse_overrides(overrides or []))
        path = cache / f"{cell.name}.{recipe_key(recipe)[-12:]}.json"
        if not path.exists():
            console.print(f"[{number}/{len(cells)}] {cell.name}", highlight=False)
            report = _run(gateway, recipe, recipe_key(recipe))
            part = path.with_suffix(".tmp")
            part.write_text(json.dumps(report))
            part.replace(path)
        reports[cell.setting][cell.variant][cell.seed] = ReportView.model_validate_json(path.read_text())
        _write(out, reports, seeds)
    console.print(f"written: {out / 'pocket.md'}")


def _run(gateway: Gateway, recipe: dict[str, Any], key: str) -> dict[str, Any]:
    """The report of the run of this recipe, started now or found where an interrupted call left it."""
    check_recipe(recipe)
    view = gateway.post("/v1/runs", {"recipe": recipe}, headers={"Idempotency-Key": key})
    for _ in follow(gateway, view["id"]):
        pass
    ended = gateway.get(f"/v1/runs/{view['id']}")
    if ended["status"] != "succeeded":
        raise CliError(f"run {view['id']} {ended['status']}: {ended['error']}; mend it, then `pmd runs resume`")
    report: dict[str, Any] = gateway.get(f"/v1/runs/{view['id']}/report")
    return report


def _write(out: Path, reports: dict[Any, Any], seeds: int) -> None:
    """The page of results, from what is there so far."""
    from gateway.report.curves import curve_chart  # noqa: PLC0415
    from gateway.reproduction import SPLITS, markdown, mean_curves, rows  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Pocket benchmark: results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}. Made by `pmd {' '.join(sys.argv[1:])}`; `make reproduce-pocket` runs it all.",
        "",
    ]
    for setting, by_variant in reports.items():
        done = {name: by_seed for name, by_seed in by_variant.items() if by_seed}
        if not done:
            continue
        parts.append(markdown(setting, rows(done), seeds))
        for split in SPLITS:
            name = f"pocket-{setting}-{split}.svg"
            (out / name).write_text(curve_chart(f"{setting}, {split}", mean_curves(done, split)))
            parts.append(f"![Mean learning curves, {setting}, {split}]({name})\n")
    (out / "pocket.md").write_text("\n".join(parts))
