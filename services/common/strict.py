"""Unknown keys are errors that name the key and the nearest valid one (Law 11); true and false are no numbers.

One base class for everything that a person or another process can send: recipes, requests, settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Strict(BaseModel):
    """A frozen value that refuses keys it does not know.

    Attribute docstrings become the field descriptions of the OpenAPI schema and of `--help`.
    """

    # A minimum, whatever it is, makes pydantic look at the text: one that no encoding can write (a lone surrogate) is
    # refused with its field instead of failing where it is first stored. So is a number that JSON can't write: it would
    # be stored as null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, str_min_length=0, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_truths(cls, data: Any) -> Any:
        """Pydantic takes true for 1: `freeze_at_step: false` would freeze at once."""
        if isinstance(data, Mapping):
            truths = [name for name, value in data.items() if isinstance(value, bool)]
            wrong = [
                name for name in truths if name in cls.model_fields and _is_number(cls.model_fields[name].annotation)
            ]
            if wrong:
                refusal = PydanticCustomError("number", "a number, not true or false")
                details = [InitErrorDetails(type=refusal, loc=(name,), input=data[name]) for name in wrong]
                raise ValidationError.from_exception_data(cls.__name__, details)
        return data


def _is_number(annotation: Any) -> bool:
    """Whether a field of this type takes numbers, and no truth values."""
    alternatives = _alternatives(annotation)
    return bool(alternatives & {int, float}) and bool not in alternatives


def _alternatives(annotation: Any) -> set[Any]:
    """The types that a union or a literal allows, what annotates them left aside."""
    origin = get_origin(annotation)
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return {kind for part in get_args(annotation) for kind in _alternatives(part)}
    return {annotation}


def nearest(key: str, valid: Iterable[str]) -> str | None:
    """The valid key most like `key`, or None when nothing comes close."""
    matches = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation can hold: through Optional, unions, lists and dicts."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_of(part)]


def _has_tag(model: type[BaseModel], tag: int | str) -> bool:
    """Whether `model` is the member of a discriminated union that `tag` chooses."""
    return any(
        get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
        for field in model.model_fields.values()
    )


def _valid_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys that are valid at the parent of `path`; a tag in it chooses among a union's members, an index is skipped."""
    candidates = [model]
    for part in path[:-1]:
        fields = [m.model_fields[part] for m in candidates if isinstance(part, str) and part in m.model_fields]
        if fields:
            candidates = [m for field in fields for m in _models_of(field.annotation)]
        else:
            candidates = [m for m in candidates if _has_tag(m, part)] or candidates
    return sorted({key for m in candidates for key in m.model_fields})


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> list[dict[str, str]]:
    """Turn a pydantic error into `[{"field": dotted path, "message": cause and fix}]`.

    `model` is the class that was validated; with it, an unknown key gets its nearest valid one.
    """
    return explain_errors(error.errors(include_url=False, include_context=False, include_input=False), model)


def _plain(message: str) -> str:
    """A message of pydantic in the words of who wrote the value."""
    if message == "Field required":
        return "missing; it must be given"
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def explain_errors(errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None = None) -> list[dict[str, str]]:
    """`explain` for errors that are already dictionaries, as FastAPI hands them over."""
    explained = []
    for item in errors:
        path = tuple(item["loc"])
        message = _plain(str(item["msg"]))
        if item["type"] == "extra_forbidden":
            message = f"unknown key {str(path[-1])!r}"
            guess = nearest(str(path[-1]), _valid_keys(model, path)) if model is not None else None
            message += f"; did you mean {guess!r}?" if guess else ""
        explained.append({"field": ".".join(str(part) for part in path), "message": message})
    return explained
