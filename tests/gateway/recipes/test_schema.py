"""The schema that editors use knows every key of a recipe, and every recipe of the repository by it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pmd.gateway.recipes.schema import FILE, LINE, text

RECIPES = Path(__file__).parents[3] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
SCHEMA = json.loads((RECIPES / FILE).read_text())


def test_the_file_is_the_code() -> None:
    told = "recipes/recipe.schema.json is stale: python -m pmd.gateway.recipes.schema > recipes/recipe.schema.json"
    assert (RECIPES / FILE).read_text() == text(), told


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_names_it_and_follows_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first == LINE + os.path.relpath(RECIPES / FILE, path.parent)
    jsonschema.validate(yaml.safe_load(path.read_text()), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"extends": "a.yaml", "nmae": "x"},
        {"extends": "a.yaml", "schedule": {"stpes": 3}},
        {"extends": "a.yaml", "context": {"render": "pictures"}},
        {"extends": "a.yaml", "problems": {"source": "jsonl", "world": "hard"}},
        {"extends": "a.yaml", "evaluation": {"sampling": {"temperature": -1}}},
        {"name": "no-model"},
    ],
    ids=str,
)
def test_it_refuses_what_a_recipe_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
