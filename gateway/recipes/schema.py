"""The JSON schema of a recipe file, for editors: `python -m pmd.gateway.recipes.schema > recipes/recipe.schema.json`.

A file may say less than a recipe has to (`extends`), and more (the folder of its prompts). So no key of a section is
required here; what a whole recipe lacks, `pmd runs create --dry-run` says.
"""

from __future__ import annotations

import json
from typing import Any

from pmd.gateway.recipes.recipe import Recipe

FILE = "recipe.schema.json"
"""What it is called beside recipes."""
LINE = "# yaml-language-server: $schema="
"""How a recipe names it, on its first line."""


def schema() -> dict[str, Any]:
    """The schema of a recipe file, made from the recipe's own model."""
    made: dict[str, Any] = _partial(Recipe.model_json_schema())
    made["title"] = "PMD recipe"
    prompts = made["properties"]["prompts"]
    told = prompts.pop("description")
    prompts.pop("default")
    made["properties"] = {
        "extends": {"type": "string", "description": "Another recipe file, which this one is laid over key by key."},
        **made["properties"],
        "prompts": {"anyOf": [{"type": "string"}, prompts], "description": told},
    }
    whole = [name for name, field in Recipe.model_fields.items() if field.is_required()]
    made["anyOf"] = [{"required": ["extends"]}, {"required": whole}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _partial(part: Any) -> Any:
    """A schema in which objects may lack keys: then alternatives are no longer told apart by one of them."""
    if isinstance(part, list):
        return [_partial(each) for each in part]
    if not isinstance(part, dict):
        return part
    renamed = {"oneOf": "anyOf"}
    return {
        renamed.get(key, key): _partial(value)
        for key, value in part.items()
        if not (key == "required" and isinstance(value, list)) and not (key == "discriminator" and "oneOf" in part)
    }


def text() -> str:
    """The schema as the file holds it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
