"""The comparison of methods on the pocket benchmark: which runs it needs. What they say is in `results`.

Invariants:
- A cell (setting, variant, seed) is one run; its recipe is a function of the cell alone, so an interrupted
  reproduction goes on where it stopped and a changed recipe is run again.
- All variants of a setting run on the same worlds: seed n is world n, and differences are taken seed by seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pmd.gateway.recipes.files import load_recipe, merge
from pmd.gateway.recipes.methods import METHODS


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
