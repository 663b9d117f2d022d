"""docs/recipe-keys.md says every key of a recipe as it is in force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmd.gateway.recipes.keys import Key, keys, page
from pmd.gateway.recipes.recipe import GeneratorSettings, Recipe

DOCS = Path(__file__).parents[3] / "docs"
KEYS = list(keys())


def test_the_page_is_the_code() -> None:
    told = "docs/recipe-keys.md is stale: python -m pmd.gateway.recipes.keys > docs/recipe-keys.md"
    assert (DOCS / "recipe-keys.md").read_text() == page(), told


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_says_what_it_means(key: Key) -> None:
    assert key.meaning.partition("`. ")[2] if key.meaning.startswith("`source: ") else key.meaning


def test_a_section_with_a_default_of_its_own_shows_that_one() -> None:
    shown = {key.path: key.default for key in KEYS}
    own = Recipe.model_fields["generator"].default
    assert isinstance(own, GeneratorSettings)
    assert shown["generator.sampling.max_tokens"] == f"`{json.dumps(own.sampling.max_tokens)}`"
    assert shown["sampling.max_tokens"] != shown["generator.sampling.max_tokens"]
