"""Reading records, each decoded on its own: JSON lines, one JSON array, Parquet or CSV, by the file's ending.

Invariant: what a file may cost is bounded by what is read of it, whatever its size, its packing or its name says.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import IO, Any, cast

import fsspec
from pydantic import ValidationError

from pmd.services.common.allowed import local
from pmd.services.common.strict import Strict, explain
from pmd.services.common.wire import Problem

MAX_VALUES = 1 << 20
"""Of one JSON text: what they take in memory is a hundred times what some take in a file."""

MAX_BYTES = 4 << 30
"""Of one file, unpacked."""
MAX_LINE = 256 << 20
"""Bytes of one line of a file, and of one JSON array: they are in memory as a whole."""
MAX_PROBLEMS = 200_000
"""Of a recipe. A run looks at each when it is created, and keeps them all."""
MAX_BAD = 100_000
"""Bad records of a set; one with more is no set of problems."""
CHUNK = 1 << 20
BATCH_ROWS = 256

_BEGIN = re.compile(r"[^\s,]")
"""Of an element of an array, or its closing bracket."""
_TOKEN = re.compile(r'"[^"]*"?|[\[{,]')
"""A text, or where another value may begin."""


class Unreadable(ValueError):
    """A file can't be read at all."""


class BadRecord(Strict):
    """A record that was left out, and why."""

    where: str
    """File and line, or the number of the record in a JSON array."""
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: " + (f"field {self.field!r}: " if self.field else "") + self.message


class BadField(ValueError):
    """Raised by a decoder: a field of its record is missing or wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


Decode = Callable[[dict[str, Any], str], Problem | None]
"""The problem of a record, None when the recipe's filter leaves it out; raises `BadField`. Second argument: an id that
is unique to the file and line."""


Raw = bytes | dict[str, Any] | BadField
"""What should be the JSON of a record, or the record, or what is wrong with it."""

Cut = slice | Callable[[int], slice]
"""Which rows are used: those of a slice from the beginning, or what their number says."""


def load(
    uris: Iterable[str], decode: Decode, known: set[str] | None = None, cut: Cut | None = None
) -> tuple[list[Problem], list[BadRecord]]:
    """The problems of all files, and the records that are none. A record whose id is taken is one of these.

    Args:
        known: ids that are taken; those of the problems are added.
        cut: rows of all files together that are used; all unless given.

    Raises:
        Unreadable: a file is missing or too large, its store can't be reached, or it holds no problems.
    """
    problems: list[Problem] = []
    bad: list[BadRecord] = []
    known = set() if known is None else known
    rows = _rows(uris)
    if isinstance(cut, slice):
        rows = islice(rows, cut.start, cut.stop)
    elif cut is not None:
        every = list(rows)
        rows = iter(every[cut(len(every))])
    for where, id_, raw in rows:
        if len(bad) > MAX_BAD:
            raise Unreadable(f"{where}: over {MAX_BAD} bad records; the first: {bad[0]}")
        try:
            problem = decode(_parse(raw), id_)
        except BadField as error:
            bad.append(BadRecord(where=where, field=error.field, message=error.message))
        except ValidationError as error:
            first = explain(error, Problem)[0]
            bad.append(BadRecord(where=where, **first))
        else:
            if problem is None:
                continue
            if problem.id in known:
                message = f"{problem.id!r} is the id of an earlier record; ids are unique across splits"
                bad.append(BadRecord(where=where, field="id", message=message))
                continue
            if len(known) >= MAX_PROBLEMS:
                raise Unreadable(
                    f"{where}: over {MAX_PROBLEMS:,} problems; give fewer (source huggingface: problems.rows, which"
                    ' `train: ":10000"` cuts)'
                )
            known.add(problem.id)
            problems.append(problem)
    return problems, bad


def _rows(uris: Iterable[str]) -> Iterator[tuple[str, str, Raw]]:
    """Where each record is, an id for it, and the record as it is read."""
    for uri in uris:
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", uri.rsplit("/", 1)[-1].partition(".")[0])[:80].strip("._-") or "file"
        for where, number, raw in _of_format(uri):
            yield where, f"{stem}-{number}", raw


def _of_format(uri: str) -> Iterator[tuple[str, int, Raw]]:
    if uri.endswith(".parquet"):
        return _of_parquet(uri)
    return _of_csv(uri) if uri.endswith(".csv") else records_of(uri)


def _of_parquet(uri: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    import pyarrow as pa  # noqa: PLC0415 -- the command line reads no records
    from pyarrow import parquet  # noqa: PLC0415

    number = size = 0
    try:
        with _open(uri) as f:
            file = parquet.ParquetFile(f)
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise Unreadable(f"{uri} has two columns {twice!r}; name each once")
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                size += batch.nbytes
                if size > MAX_BYTES:  # a dictionary of one long text can stand for any number of them
                    raise _too_large(uri)
                for number, record in enumerate(batch.to_pylist(), number + 1):  # noqa: B020 -- it goes on
                    yield f"{uri} row {number}", number, record
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"{uri} can't be read: {error.strerror or error}"[:500]) from error
    except Exception as error:  # of values that Python has not: the year 10000, the time of no zone
        told = "" if isinstance(error, pa.ArrowException) else f", at row {number + 1} or after ({error})"
        raise Unreadable(f"{uri} can't be read: {type(error).__name__}{told}"[:500]) from error


def _of_csv(uri: str) -> Iterator[tuple[str, int, Raw]]:
    try:
        with _open(uri) as file:
            f = io.BufferedReader(_Bounded(file, uri), CHUNK)
            table = csv.DictReader(io.TextIOWrapper(f, "utf-8-sig", newline=""), strict=True)
            columns = table.fieldnames or []
            if twice := next((name for name in columns if columns.count(name) > 1), None):
                raise Unreadable(f"{uri} has two columns {twice!r}; name each once")
            for number, record in enumerate(table, 1):
                yield f"{uri} row {number}", number, _whole(record, len(columns))
    except Unreadable:
        raise
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise Unreadable(f"{uri} can't be read: {error}") from error


def _whole(row: dict[str | None, Any], columns: int) -> Raw:
    """A row with a value for each column, or what is wrong with it."""
    values = columns + len(row.get(None, ())) - sum(value is None for value in row.values())
    if values == columns:
        return {str(name): value for name, value in row.items()}
    return BadField("", f"has {values} values where the file has {columns} columns; is a quote or a comma missing?")


def records_of(uri: str) -> Iterator[tuple[str, int, bytes]]:
    """Where each record is, its number from 1, and what should be its JSON."""
    try:
        with _open(uri) as file:
            f = io.BufferedReader(_Bounded(file, uri), CHUNK)
            begun = False
            for number, line in enumerate(f, 1):
                text = line.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else line.strip()
                if text.startswith(b"[") and not begun:
                    array = line[line.index(b"[") :] + f.read(MAX_LINE + 1)
                    if len(array) > MAX_LINE:
                        raise Unreadable(f"{uri} is an array of over {MAX_LINE >> 20} MB; write a record a line")
                    yield from ((f"{uri} record {n}", n, value) for n, value in enumerate(_elements(array), 1))
                    return
                if text:
                    begun = True
                    yield f"{uri} line {number}", number, text
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"{uri} can't be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # every store's driver raises its own, with whatever the store has said
        raise Unreadable(f"{uri} can't be read: {type(error).__name__}") from error


class _Bounded(io.RawIOBase):
    """A file of lines that ends with `Unreadable` where it, or one of its lines, is too large."""

    def __init__(self, file: IO[bytes], uri: str) -> None:
        self._file, self._uri = file, uri
        self._read = self._line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer)) or b""  # None: a file of the system's that has nothing yet
        buffer[: len(data)] = data
        self._read += len(data)
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self._line = len(data) - 1 - end + (self._line if end < 0 else 0)
        if self._read > MAX_BYTES:
            raise _too_large(self._uri)
        if self._line > MAX_LINE:
            raise Unreadable(f"{self._uri} can't be read: a line of it has over {MAX_LINE >> 20} MB")
        return len(data)


def _too_large(uri: str) -> Unreadable:
    return Unreadable(f"{uri} can't be read: it expands beyond {MAX_BYTES >> 30} GB")


def _open(uri: str) -> AbstractContextManager[IO[bytes]]:
    """Open a file for reading; a device, a pipe or a folder in its place is no file."""
    path = local(uri)
    if path is None:
        return cast(AbstractContextManager[IO[bytes]], fsspec.open(uri, "rb", compression="infer"))
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to would block
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise Unreadable(f"{uri} can't be read: it is no regular file")
    file = os.fdopen(number, "rb")
    return cast(AbstractContextManager[IO[bytes]], gzip.open(file)) if uri.endswith(".gz") else file


def _elements(array: bytes) -> Iterator[bytes]:
    """What should be the JSON of each element of an array; where one is broken off, all that is left.

    One that is never closed has an empty last element: it may have lost others.
    """
    text = array.decode("utf-8", "surrogateescape").rstrip()
    # It only tells where a value ends: whether it is a record is seen one by one, so any number will do.
    decoder = json.JSONDecoder(parse_int=str)
    closed = len(text) - 1 if text.endswith("]") else len(text)
    found = _BEGIN.search(text, 1)
    while found and found.start() != closed:
        begin = found.start()
        try:
            end = decoder.raw_decode(text, begin)[1]
        except (ValueError, RecursionError):
            end = len(text)
        yield text[begin:end].encode("utf-8", "surrogateescape")
        found = _BEGIN.search(text, end)
    if closed == len(text):
        yield b""


def _parse(text: Raw) -> dict[str, Any]:
    if isinstance(text, BadField):
        raise text
    if isinstance(text, dict):
        return text
    try:
        record = parse_json(text.decode(), "")
    except UnicodeDecodeError as error:
        raise BadField("", f"no UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise BadField("", f"a record is a JSON object, not {type(record).__name__}")
    return record


def parse_json(text: str, field: str) -> Any:
    """The JSON in `text`.

    Raises:
        BadField: it is none, or holds more than `MAX_VALUES` values.
    """
    if len(text) > MAX_VALUES and _holds_too_much(text):
        raise BadField(field, f"holds over {MAX_VALUES} JSON values")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadField(field, f"no JSON: {error}") from error


def _holds_too_much(text: str) -> bool:
    """Whether so many values begin in `text`, of which a few bytes can hold many, as `[[],[],..`."""
    bare = text.replace("\\\\", "").replace('\\"', "")  # now every quote is the begin or the end of a text
    begins = (found for found in _TOKEN.finditer(bare) if bare[found.start()] != '"')
    return next(islice(begins, MAX_VALUES, None), None) is not None


def text_of(record: dict[str, Any], field: str, *, empty: bool = False) -> str:
    """The text in a field.

    Raises:
        BadField: there is none, or it is empty and must not be.
    """
    value = record.get(field)
    if not isinstance(value, str) or not (value.strip() or empty):
        raise BadField(field, "must be a text" if not isinstance(value, str) else "must not be empty")
    return value
