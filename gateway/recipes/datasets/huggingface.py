"""Any data set as problems: a recipe says which columns make the prompt, the verifier's spec and the rest.

Texts of the mapping are Jinja templates over a record's columns, in a sandbox. In the spec, `{column: a.b.0}` stands
for the value in a column as it is, and `{json: a.b}` for what the JSON text in it says.

Invariants:
- A data set's name leads to one commit, which the run keeps; nothing that comes with a data set is run.
- A record whose columns do not make a problem is a bad record, named by file and row.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pmd.gateway.recipes import hub
from pmd.gateway.recipes.datasets.records import BadField, Unreadable, parse_json
from pmd.gateway.recipes.downloads import Fetch
from pmd.services.common.allowed import Allowed
from pmd.services.common.wire import Message, Problem, Split

if TYPE_CHECKING:
    from pmd.gateway.recipes.recipe import Columns, HuggingFaceProblems

FORMATS = ("parquet", "jsonl", "jsonl.gz", "json", "csv")
_NAME = re.compile(r"(?P<id>(?:[A-Za-z0-9][\w.-]*/)?[\w.-]+)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
MAX_CHARS = 1 << 20
"""Of a text that a template makes."""
MAX_ROUNDS = 100_000
"""Of all loops of a template, for one record."""
ROUNDS = " rounds"  # no name that a template can say, nor likely a column's
MAX_DEPTH = 32
"""Of lists and mappings in a column."""


class _Bounded(ImmutableSandboxedEnvironment):
    """A sandbox whose templates end: rounds of loops, products and powers are bounded, and there are no macros, which
    could call themselves."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The result, unless it is out of all proportion.

        Raises:
            ValueError: it is.
        """
        if operator == "%" and isinstance(left, str):
            raise ValueError("texts are not formatted by %; write ~ between them")
        if operator == "**" and not (abs(left) <= 10**6 and abs(right) <= 64):
            raise ValueError("a power of more than a million, or by more than 64")
        sizes = [len(side) if hasattr(side, "__len__") else side for side in (left, right)]
        if operator == "*" and sizes != [left, right] and sizes[0] * sizes[1] > MAX_CHARS:
            raise ValueError(f"a product of more than {MAX_CHARS} characters or items")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        if found := next(tree.find_all((nodes.Macro, nodes.CallBlock)), None):
            raise TemplateSyntaxError("macros are not taken", found.lineno)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
            if loop.recursive:
                raise TemplateSyntaxError("recursive loops are not taken", loop.lineno)
        return tree


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    """`items`, of which all loops of a template see at most `MAX_ROUNDS`."""
    left = context[ROUNDS]
    for item in items:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError(f"the template's loops take over {MAX_ROUNDS} rounds")
        yield item


_environment = _Bounded(undefined=StrictUndefined, keep_trailing_newline=True)
_environment.filters["counted"] = _counted


def read_name(dataset: str) -> tuple[str, str]:
    """Id and revision of `owner/name@revision`.

    Raises:
        ValueError: it is no such name.
    """
    found = _NAME.fullmatch(dataset)
    if found is None or ".." in dataset:
        raise ValueError(f"{dataset!r} is no name of a data set; write owner/name or owner/name@revision")
    return found["id"], found["revision"] or "main"


def check_name(dataset: str, allowed: Allowed) -> None:
    """Whether the installation lets recipes name a data set: names are free where paths are; else its page on the hub
    must be at or below an entry of the list of URLs.

    Raises:
        NotAllowed: it does not.
    """
    if "/" not in allowed.paths:
        allowed.check_url(f"{hub.endpoint()}/datasets/{read_name(dataset)[0]}")


def files_of(source: HuggingFaceProblems, fetch: Fetch = hub.snapshot) -> tuple[dict[Split, list[str]], str]:
    """The files of each split on this machine, and the data set with its commit (empty for files that are named).

    Args:
        fetch: what the data set's files lead to.

    Raises:
        Unreadable: the hub has not got them, or none of the data set's files is of a split.
        Exception: what `fetch` raises besides.
    """
    if source.dataset is None:
        return dict(source.files), ""
    repo, revision = read_name(source.dataset)
    try:
        repository = hub.at_commit(hub.Repository(repo, "dataset", revision))
        names = sorted(name for name in hub.sizes(repository) if ".." not in name.split("/"))
        wanted = {split: _groups(source, split) for split in source.splits_named()}
        found = {split: _matching(names, groups) for split, groups in wanted.items()}
        if missing := [split for split, files in found.items() if not files]:
            there = [name for name in names if name.endswith(FORMATS)]
            said = f"; it has {', '.join(there[:12])}{' ..' if len(there) > 12 else ''}" if there else ""
            raise Unreadable(
                f"{repo} has no file like {wanted[missing[0]][0][0]} for split {missing[0]}{said}. Name the config, the"
                " data set's own split (problems.splits), or files by pattern (problems.files)"
            )
        every = sorted({name for files in found.values() for name in files})
        files = hub.Files(repository, tuple(glob.escape(name) for name in every))
        folder = fetch(files)
    except hub.HubError as error:
        raise Unreadable(str(error)) from error
    return {split: [str(folder / name) for name in files] for split, files in found.items()}, files.name


def _groups(source: HuggingFaceProblems, split: Split) -> list[list[str]]:
    """Where the files of a split may be, the likeliest place first: as named, or by the hub's conventions."""
    if split in source.files:
        return [source.files[split]]
    folders = [f"{source.config}/", f"data/{source.config}/"] if source.config else ["", "data/", "default/"]
    stems = (of := source.splits[split], f"{of}-*", f"{of}/*")
    return [[f"{folder}{stem}.{ending}" for stem in stems] for folder in folders for ending in FORMATS]


def _matching(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[str]:
    """The files of the first group that has any: sets hold the same rows in several formats."""
    for group in groups:
        patterns = [pattern.split("/") for pattern in group]
        if found := [name for name in names if any(_like(name.split("/"), pattern) for pattern in patterns)]:
            return found
    return []


def _like(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern, part by part; `**` stands for any number of parts."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_like(name[begin:], pattern[1:]) for begin in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _like(name[1:], pattern[1:])


def rows(text: str, total: int) -> slice:
    """The rows that `100:`, `:90%` or `-50:` means of `total`.

    Raises:
        ValueError: it is no such text.
    """
    found = _SLICE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no rows; write begin:end, as 100:, :90% or -50:")

    def at(part: str | None) -> int | None:
        if part is None:
            return None
        return math.floor(total * int(part[:-1]) / 100) if part.endswith("%") else int(part)

    return slice(at(found[1]), at(found[2]))


def decode(record: dict[str, Any], id_: str, split: Split, columns: Columns) -> Problem:
    """The problem of a record.

    Raises:
        BadField: its columns make none.
    """
    verifier = _filled(columns.verifier, record, "verifier")
    return Problem(
        id=_slug(_rendered(columns.id, record, "id")) if columns.id else id_,
        messages=_messages(record, columns),
        verifier=verifier,
        domain=_rendered(columns.domain, record, "domain").strip(),
        split=split,
    )


def _messages(record: dict[str, Any], columns: Columns) -> list[Message]:
    turns: list[Any] = []
    if columns.system:
        turns.append({"role": "system", "content": _rendered(columns.system, record, "system")})
    if columns.messages:
        said = _column(record, columns.messages, "messages")
        if not isinstance(said, list) or not all(isinstance(turn, dict) for turn in said):
            raise BadField(columns.messages, "must hold a list of turns, each with role and content")
        turns += [{"role": turn.get("role"), "content": turn.get("content")} for turn in said]
    if columns.prompt:
        turns.append({"role": "user", "content": _rendered(columns.prompt, record, "prompt")})
    while turns and turns[-1]["role"] == "assistant":  # the answer, in sets for supervised training
        turns.pop()
    return [Message.model_validate(turn) for turn in turns]


def _filled(value: Any, record: dict[str, Any], path: str) -> Any:
    """`value` with its templates and columns filled in."""
    if isinstance(value, str):
        return _rendered(value, record, path)
    if isinstance(value, list):
        return [_filled(item, record, f"{path}.{number}") for number, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"column"}:
        return _plain(_column(record, str(value["column"]), path), path)
    if value.keys() == {"json"}:
        text = _column(record, str(value["json"]), path)
        if not isinstance(text, str):
            raise BadField(path, f"column {value['json']!r} holds a {type(text).__name__}, not a JSON text")
        return _plain(parse_json(text, path), path)
    return {key: _filled(item, record, f"{path}.{key}") for key, item in value.items()}


def _column(record: dict[str, Any], name: str, path: str) -> Any:
    """The value at a dotted path of columns, keys and numbers."""
    value: Any = record
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise BadField(path, f"there is no column {name!r}; there are {', '.join(record)}")
    return value


def _plain(value: Any, path: str, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise BadField(path, f"holds lists or mappings more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list):
        return [_plain(item, path, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, path, depth + 1) for key, item in value.items()}
    what = str(value) if isinstance(value, float) else f"a {type(value).__name__}"
    raise BadField(path, f"{what} is no JSON; make a text of it with a template")


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _environment.from_string(template)


def check_template(value: Any, path: str) -> None:
    """Look whether every text below `value` is a template.

    Raises:
        ValueError: one is not; the message begins with its path.
    """
    if isinstance(value, str):
        try:
            _compiled(value)
        except TemplateSyntaxError as error:
            raise ValueError(f"{path}: line {error.lineno}: {error.message}") from error
    elif isinstance(value, Mapping) and value.keys() not in ({"column"}, {"json"}):
        for key, item in value.items():
            check_template(item, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check_template(item, f"{path}.{number}")


def _rendered(template: str, record: dict[str, Any], path: str) -> str:
    try:
        text = _compiled(template).render(record | {ROUNDS: [MAX_ROUNDS]})
    except Exception as error:  # a template is a program of its author's
        raise BadField(path, f"{type(error).__name__}: {error}"[:500]) from error
    if len(text) > MAX_CHARS:
        raise BadField(path, f"the template makes {len(text)} characters, at most {MAX_CHARS} are allowed")
    return text


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip()).strip("-._")[:128]
