"""The comparisons of methods on the bundled benchmarks: which runs they need. What they say is in `results`.

Invariants:
- A cell (setting, variant, seed) is one run; its recipe is a function of the cell alone, so an interrupted
  reproduction goes on where it stopped and a changed recipe is run again.
- All variants of a setting run on the same worlds: seed n is world n, and differences are taken seed by seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pmd.gateway.recipes.files import load_recipe, merge, resolve
from pmd.gateway.recipes.methods import METHODS


@dataclass(frozen=True)
class Setting:
    """One kind of problem, in worlds of one sort."""

    name: str
    title: str
    recipe: str
    """File of `recipes/` that its variants are laid over."""
    problems: Mapping[str, Any] = field(hash=False)
    """Keys of `problems` that it has; `{seed}` in a text is the world's number."""

    def __str__(self) -> str:
        return self.name

    def world(self, seed: int) -> dict[str, Any]:
        """`problems` of the world of that number."""

        def filled(value: Any) -> Any:
            if isinstance(value, list):
                return [filled(each) for each in value]
            return value.replace("{seed}", str(seed)) if isinstance(value, str) else value

        return {key: filled(value) for key, value in self.problems.items()} | (
            {"world_seed": seed} if self.problems.get("source") == "pocket" else {}
        )


@dataclass(frozen=True)
class Study:
    """A benchmark whose methods are compared; `recipes/<name>.yaml` and `recipes/<name>/` are its recipes."""

    name: str
    title: str
    target: str
    """Target of the Makefile that runs it."""
    settings: tuple[Setting, ...]
    about: str
    """What the page says of its settings and splits."""
    worlds: range | None
    """Numbers of the worlds that are compared; None: any."""

    def variants(self, recipes: Path) -> dict[str, Path]:
        """The recipes to compare, by name: the methods that have one, then other baselines, then the ablations."""
        methods = {name: path for name in METHODS if (path := recipes / self.name / f"{name}.yaml").exists()}
        others = {
            path.stem: path
            for folder in ("baselines", "ablations")
            for path in sorted((recipes / self.name / folder).glob("*.yaml"))
        }
        return methods | others

    def setting(self, name: str) -> Setting:
        """The setting of that name."""
        return next(setting for setting in self.settings if setting.name == name)

    def cell_recipe(self, cell: Cell, recipes: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe of a cell, as data to post: what its variant changes of the study's recipe, laid over that of its
        setting."""
        base = load_recipe(recipes / f"{self.name}.yaml")
        own_recipe = load_recipe(recipes / cell.setting.recipe)
        variant = merge(own_recipe, _changes(base, load_recipe(self.variants(recipes)[cell.variant])))
        world = resolve({"problems": cell.setting.world(cell.seed)}, recipes, cell.name)
        own = {"name": cell.name.replace("_", "-"), "seed": cell.seed, **world}
        return merge(variant, merge(dict(overrides), own))


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


def _pocket(kind: str, world: str) -> Setting:
    recipe = "pocket.yaml" if kind == "code" else f"pocket-{kind}.yaml"
    problems = {"source": "pocket", "kind": kind, "world": world}
    return Setting(f"{kind}-{world}", f"{kind}, {world}", recipe, problems)


def _real(kind: str) -> Setting:
    files = [f"../examples/real/problems/{kind}-{{seed}}.jsonl"]
    return Setting(kind, kind, "real.yaml", {"source": "jsonl", "files": files})


POCKET = Study(
    name="pocket",
    title="Pocket benchmark",
    target="reproduce-pocket",
    settings=tuple(_pocket(kind, world) for kind in ("code", "choice") for world in ("hard", "easy")),
    about="Settings: `code` are programs, `choice` is multiple choice, of easy or hard worlds. Splits: `test` are new "
    "problems, `unseen` combinations that never occur in training.",
    worlds=None,
)
REAL = Study(
    name="real",
    title="Real benchmark",
    target="reproduce-real",
    settings=(_real("signs"), _real("words")),
    about="SmolLM2-135M-Instruct on house conventions. Settings: `signs` are forms of a sign by kind of room, `words` "
    "are house words for operations on lists. Splits: `test` are new problems of families that are trained on, "
    "`unseen` are families held out that share a part of a rule. World 0, on which the recipe was chosen, is not among "
    "them.",
    worlds=range(1, 4),
)
STUDIES = {study.name: study for study in (POCKET, REAL)}


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
