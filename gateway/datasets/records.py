"""Reading records: JSON lines or one JSON array, each record decoded on its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fsspec
from pydantic import ValidationError

from services.common.strict import Strict, explain
from services.common.wire import Problem


class Unreadable(ValueError):
    """A file can't be read at all."""


class BadRecord(Strict):
    """A record that was left out, and why."""

    where: str
    """File and line, or the number of the record in a JSON array."""
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: field {self.field!r}: {self.message}"


class BadField(ValueError):
    """Raised by a decoder: a field of its record is missing or wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


Decode = Callable[[dict[str, Any], str], Problem | None]
"""The problem of a record, None when the recipe's filter leaves it out; raises `BadField`. Second argument: an id that
is unique to the file and line."""


def load(uris: Iterable[str], decode: Decode) -> tuple[list[Problem], list[BadRecord]]:
    """The problems of all files, and the records that are none.

    Raises:
        Unreadable: a file is missing or is no text.
    """
    problems: list[Problem] = []
    bad: list[BadRecord] = []
    for uri in uris:
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", uri.rsplit("/", 1)[-1].partition(".")[0])[:80].strip("._-") or "file"
        for where, number, text in _records(uri):
            try:
                record = _parse(text)
                problem = decode(record, f"{stem}-{number}")
            except BadField as error:
                bad.append(BadRecord(where=where, field=error.field, message=error.message))
            except ValidationError as error:
                first = explain(error, Problem)[0]
                bad.append(BadRecord(where=where, **first))
            else:
                if problem is not None:
                    problems.append(problem)
    return problems, bad


def _records(uri: str) -> Iterator[tuple[str, int, Any]]:
    """Where each record is, its number from 1, and the record: JSON text, or already a value."""
    try:
        with fsspec.open(uri, "rt", encoding="utf-8-sig") as f:
            first = f.read(1)
            if first == "[":
                array = json.loads(first + f.read())
                yield from ((f"{uri} record {n}", n, value) for n, value in enumerate(array, 1))
                return
            for number, line in enumerate(f, 1):
                text = first + line if number == 1 else line
                if text.strip():
                    yield f"{uri} line {number}", number, text
    except (OSError, ValueError, RecursionError, ImportError) as error:  # the last: a store whose driver is missing
        raise Unreadable(f"{uri} can't be read: {error}") from error


def _parse(text: Any) -> dict[str, Any]:
    record = parse_json(text, "") if isinstance(text, str) else text
    if not isinstance(record, dict):
        raise BadField("", f"a record is a JSON object, not {type(record).__name__}")
    return record


def parse_json(text: str, field: str) -> Any:
    """The JSON in `text`.

    Raises:
        BadField: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadField(field, f"no JSON: {error}") from error


def text_of(record: dict[str, Any], field: str, *, empty: bool = False) -> str:
    """The text in a field.

    Raises:
        BadField: there is none, or it is empty and must not be.
    """
    value = record.get(field)
    if not isinstance(value, str) or not (value.strip() or empty):
        raise BadField(field, "must be a text" if not isinstance(value, str) else "must not be empty")
    return value
