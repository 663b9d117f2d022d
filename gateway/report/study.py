"""The comparison of methods on the pocket benchmark: which runs it needs, and what it says of their reports.

Invariants:
- A cell (setting, variant, seed) is one run; its recipe is a function of the cell alone, so an interrupted
  reproduction goes on where it stopped and a changed recipe is run again.
- All variants of a setting run on the same worlds: seed n is world n, and differences are taken seed by seed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pmd.gateway.recipes.files import load_recipe, merge
from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report.statistics import Estimate, area, curve, estimate, paired
from pmd.gateway.views import ReportView, StepView

REFERENCE = "pmd"
"""The variant that the others are compared with."""

SPLITS = ("test", "unseen")


@dataclass(frozen=True)
class Setting:
    """One kind of problem in one world."""

    kind: Literal["code", "choice"]
    world: Literal["easy", "hard"]

    def __str__(self) -> str:
        return f"{self.kind}-{self.world}"


SETTINGS = tuple(Setting(kind, world) for kind in ("code", "choice") for world in ("hard", "easy"))


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    setting: Setting
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """A readable name that is safe in a file name."""
        return f"{self.setting}.{self.variant}.{self.seed}"


def variants(recipes: Path) -> dict[str, Path]:
    """The recipes to compare, by name: the five methods, then the ablations."""
    methods = {name: recipes / "pocket" / f"{name}.yaml" for name in METHODS}
    ablations = {path.stem: path for path in sorted((recipes / "pocket" / "ablations").glob("*.yaml"))}
    return methods | ablations


def cell_recipe(cell: Cell, recipes: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a cell, as data to post: what its variant changes of pocket.yaml, laid over that of its kind."""
    pocket = load_recipe(recipes / "pocket.yaml")
    of_kind = pocket if cell.setting.kind == "code" else load_recipe(recipes / f"pocket-{cell.setting.kind}.yaml")
    variant = merge(of_kind, _changes(pocket, load_recipe(variants(recipes)[cell.variant])))
    world = {"kind": cell.setting.kind, "world": cell.setting.world, "world_seed": cell.seed}
    own = {"name": cell.name.replace("_", "-"), "seed": cell.seed, "problems": world}
    return merge(variant, merge(dict(overrides), own))


def _changes(base: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `recipe` that are not so in `base`."""
    changed: dict[str, Any] = {}
    for key, value in recipe.items():
        known = base.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            if inner := _changes(known, value):
                changed[key] = inner
        elif value != known:
            changed[key] = value
    return changed


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """What makes two submissions the same run."""
    return "reproduce-" + hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Row:
    """What one variant reached in one setting."""

    variant: str
    worlds: int
    final: Mapping[str, Estimate]
    area: Mapping[str, Estimate]
    pass_at: Mapping[str, Mapping[int, float]]
    """Mean pass@k of the last evaluation by split."""
    lead_final: Mapping[str, Estimate]
    """The reference minus this variant, paired by seed."""
    lead_area: Mapping[str, Estimate]


def _final(report: ReportView, split: str) -> float:
    points = curve(report.steps, split)
    return points[-1][1] if points else math.nan


def _area(report: ReportView, split: str) -> float:
    return area(curve(report.steps, split))


def _last(steps: Sequence[StepView]) -> StepView:
    return next(step for step in reversed(steps) if step.evaluation)


def rows(reports: Mapping[str, Mapping[int, ReportView]]) -> list[Row]:
    """The table of one setting, from the reports by variant and seed."""
    reference = reports.get(REFERENCE, {})
    table = []
    for variant, by_seed in reports.items():
        shared = sorted(set(by_seed) & set(reference))
        seeds = sorted(by_seed)
        table.append(
            Row(
                variant=variant,
                worlds=len(seeds),
                final={s: estimate([_final(by_seed[n], s) for n in seeds]) for s in SPLITS},
                area={s: estimate([_area(by_seed[n], s) for n in seeds]) for s in SPLITS},
                pass_at={s: _mean_pass_at([_last(by_seed[n].steps) for n in seeds], s) for s in SPLITS},
                lead_final={s: _paired(_final, reference, by_seed, shared, s) for s in SPLITS if shared},
                lead_area={s: _paired(_area, reference, by_seed, shared, s) for s in SPLITS if shared},
            )
        )
    return table


def _paired(
    measure: Any, reference: Mapping[int, ReportView], other: Mapping[int, ReportView], seeds: list[int], split: str
) -> Estimate:
    return paired([measure(reference[n], split) for n in seeds], [measure(other[n], split) for n in seeds])


def _mean_pass_at(steps: Sequence[StepView], split: str) -> dict[int, float]:
    scores = [step.evaluation[split].pass_at for step in steps]
    shared = set.intersection(*(set(score) for score in scores))  # infrastructure failures leave some fewer rollouts
    return {k: sum(score[k] for score in scores) / len(scores) for k in sorted(shared)}


def mean_curves(reports: Mapping[str, Mapping[int, ReportView]], split: str) -> dict[str, list[tuple[int, float]]]:
    """The mean learning curve of each variant over its seeds, at the steps that all of them evaluated."""
    curves = {}
    for variant, by_seed in reports.items():
        points = [dict(curve(report.steps, split)) for report in by_seed.values()]
        steps = sorted(set.intersection(*(set(p) for p in points)))
        curves[variant] = [(step, sum(p[step] for p in points) / len(points)) for step in steps]
    return curves


COLUMNS = ("setting", "variant", "seed", "step", "split", "k", "pass_at_k")


def measurements(
    setting: Setting, reports: Mapping[str, Mapping[int, ReportView]]
) -> list[tuple[str | int | float, ...]]:
    """All evaluations of one setting, a row (`COLUMNS`) for each k; pass@1 is avg@n."""
    return [
        (str(setting), variant, seed, step.step, split, k, score)
        for variant, by_seed in reports.items()
        for seed, report in sorted(by_seed.items())
        for step in report.steps
        if step.evaluation
        for split in SPLITS
        for k, score in sorted(step.evaluation[split].pass_at.items())
    ]


def markdown(setting: Setting, table: Sequence[Row]) -> str:
    """The table of one setting."""
    lines = [
        f"## {setting.kind}, {setting.world}",
        "",
        "Memory-free accuracy (avg@n), mean over worlds with 95 % intervals. Area is the mean height of the learning "
        f"curve. Δ is `{REFERENCE}` minus the row on `test`, paired by world.",
        "",
        "| variant | worlds | test, final | unseen, final | test, area | unseen, area | pass@k | Δ final | Δ area |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        wide = row.pass_at["test"][max(row.pass_at["test"])]
        deltas = [str(row.lead_final["test"]), str(row.lead_area["test"])] if row.lead_final else ["", ""]
        if row.variant == REFERENCE:
            deltas = ["", ""]
        cells = [
            f"`{row.variant}`",
            str(row.worlds),
            *(str(row.final[s]) for s in SPLITS),
            *(str(row.area[s]) for s in SPLITS),
            f"{wide:.2f}",
            *deltas,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
