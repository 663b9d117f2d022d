"""Every key of a recipe, as the page docs/recipe-keys.md: `python -m pmd.gateway.recipes.keys > docs/recipe-keys.md`.

Invariant: types, defaults and meanings are the ones in force; nothing is written down a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from pmd.gateway.recipes.recipe import Recipe

HEAD = """# Every key of a recipe

Made by `python -m pmd.gateway.recipes.keys`; a test holds it to the code. What they are for: [recipes.md](recipes.md).

| key | type | default | meaning |
|---|---|---|---|
"""

NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true, false",
    date: "date",
    NoneType: "null",
    Any: "anything",
}


class Key(NamedTuple):
    """One row of the page."""

    path: str
    kind: str
    default: str
    meaning: str


def keys(model: type[BaseModel] = Recipe, path: str = "", given: Any = PydanticUndefined) -> Iterator[Key]:
    """Every key below `model`, in order; of alternatives that `source` tells apart, those of each.

    Args:
        path: dotted key of the section that is such a model, with its dot.
        given: the section's default, whose values come before those of the model itself.
    """
    for name, field in model.model_fields.items():
        key = f"{path}{name}"
        default = field.default if given is PydanticUndefined else getattr(given, name)
        models = [part for part in _alternatives(field.annotation) if _is_model(part)]
        if models and default is None:  # a section that may be left out, and then its keys are too
            yield Key(key, "mapping or null", "`null`", _line(field.description))
            default = PydanticUndefined
        for part in models:
            source = part.model_fields.get("source")
            about = f"`source: {_type(source.annotation)}`. " if source is not None else ""
            for below in keys(part, f"{key}.", default):
                meaning = part.__doc__ if source is not None and below.path == f"{key}.source" else below.meaning
                yield below._replace(meaning=about + _line(meaning))
        if not models:
            shown = "needed" if default is PydanticUndefined else f"`{json.dumps(to_jsonable_python(default))}`"
            if isinstance(default, str) and "\n" in default:
                shown = "bundled"
            yield Key(key, _type(field.annotation), shown, _line(field.description))


def page() -> str:
    """The page in Markdown."""
    rows = (key._replace(path=f"`{key.path}`") for key in keys())
    return HEAD + "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, whatever annotates them left aside; the type itself where it is none."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin is None or isinstance(annotation, type) or origin in {Literal, list, tuple, dict}:
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _alternatives(part)]


def _type(annotation: Any) -> str:
    return " or ".join(dict.fromkeys(map(_name, _alternatives(annotation))))


def _name(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in {list, tuple}:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"mapping of {_type(parts[0])} to {_type(parts[1])}"
    return NAMES[kind]


if __name__ == "__main__":
    print(page(), end="")
