"""Recipe files: YAML, what they extend, and overrides, as the data that is posted to the gateway.

Invariant: nothing here says whether a recipe is valid; that is for `pmd.gateway.recipes.recipe`, on either
side of the wire.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from pmd.gateway.recipes.models.names import bundled, hub_name
from pmd.gateway.recipes.prompts import read as read_prompts

MAX_VALUES = 1 << 20
"""Of one file, when every alias is written out."""


class RecipeError(ValueError):
    """A recipe file can't be read; the message says which and why."""


_OLD_RULES = (":timestamp", ":int", ":float", ":bool")
"""Values that YAML 1.1 reads as people do not: `010` is 8, `1:30` is 90, `1_000` is 1000, `no` is false."""


class _Plain(yaml.SafeLoader):
    """YAML that says what JSON can say, numbers and truths as YAML 1.2 reads them (its core schema): a date is the text
    that it was written as, a key stands once."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_OLD_RULES)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or not tag.endswith((":timestamp", ":binary", ":set", ":omap", ":pairs"))
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:  # it would be the last that counts, and the block above it lost without a word
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Octal and hexadecimal by their prefix, all else decimal."""
        text = self.construct_scalar(node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        try:
            return int(text, base)
        except ValueError as error:  # more digits than Python reads
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _yaml(text: str | bytes) -> Any:
    loader = _Plain(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, each alias counted as what it names: a few can stand for billions.

    Raises:
        MarkedYAMLError: more than `MAX_VALUES`, or a node that holds itself.
    """
    if id(node) in known:
        size = known[id(node)]
    else:
        known[id(node)] = MAX_VALUES + 1  # found again below itself, it has no end
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
        parts += node.value if isinstance(node, yaml.SequenceNode) else []
        size = known[id(node)] = 1 + sum(_measure(part, known) for part in parts)
    if size > MAX_VALUES:
        raise yaml.MarkedYAMLError(problem=f"stands for over {MAX_VALUES} values", problem_mark=node.start_mark)
    return size


def _of_another_source(over: dict[str, Any], base: dict[str, Any]) -> bool:
    return "source" in over and "source" in base and over["source"] != base["source"]


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, key by key, without changing either.

    A mapping that names another `source` takes the other's place: it has none of its keys.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not _of_another_source(value, below):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`["teacher.ema=0.02", "method=sdpo"]` as the nested mapping they mean; values are YAML.

    Raises:
        RecipeError: for a pair without `=`, and for a value that is no YAML.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"{pair!r} is no override; write key.subkey=value")
        try:
            leaf: Any = _yaml(value)
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"{pair!r}: the value is no YAML: {' '.join(str(error).split())}") from error
        for part in reversed(path.strip().split(".")):
            leaf = {part: leaf}
        tree = merge(tree, leaf)
    return tree


def load_recipe(path: Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """The recipe in a YAML file as data to post: `extends` followed, paths made absolute, prompts read in.

    Keys: `extends: other.yaml` lays this file over another one; relative paths (`model`, where it is no name,
    `prompts`, `problems.files`, `memory.start_from`) are relative to the file that holds them, those of
    `overrides` to where the caller stands.

    Raises:
        RecipeError: when a file is missing or is no mapping, or extends itself.
    """
    return merge(_load(path, ()), resolve(overrides or {}, Path.cwd(), "overrides"))


def _load(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The recipe in one file, laid over what it extends; `below` are the files that extend it."""
    file = path.resolve()
    if file in below:
        raise RecipeError(f"{path}: extends: the files extend each other in a circle")
    try:
        tree = _yaml(file.read_bytes())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys")
    tree = resolve(tree, file.parent, str(path))
    if "extends" in tree:
        other = tree.pop("extends")
        if not isinstance(other, str):
            raise RecipeError(f"{path}: extends: the path of one other file")
        tree = merge(_load(file.parent / other, (*below, file)), tree)
    return tree


def resolve(tree: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
    """`tree` with paths made absolute, as seen from `folder`, and prompts by content.

    Raises:
        RecipeError: when the prompts of `source` can't be read.
    """

    def absolute(value: str) -> str:
        return value if "://" in value or Path(value).is_absolute() else os.path.normpath(folder / value)

    tree = dict(tree)
    model = tree.get("model")
    if isinstance(model, str) and not bundled(model) and not (hub_name(model) and not (folder / model).exists()):
        tree["model"] = absolute(model)
    if isinstance(tree.get("prompts"), str):
        prompts = Path(absolute(tree["prompts"]))
        try:
            tree["prompts"] = read_prompts(prompts)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{source}: prompts: {error}") from error
    memory = tree.get("memory")
    if isinstance(memory, dict) and isinstance(start := memory.get("start_from"), str) and not start.startswith("run:"):
        tree["memory"] = memory | {"start_from": absolute(start)}
    problems = tree.get("problems")
    if isinstance(problems, dict) and isinstance(problems.get("dataset"), str):
        pass  # its files are patterns of that data set's
    elif isinstance(problems, dict) and isinstance(problems.get("files"), list):
        tree["problems"] = problems | {"files": [absolute(str(f)) for f in problems["files"]]}
    elif isinstance(problems, dict) and isinstance(problems.get("files"), dict):
        files = {
            split: [absolute(str(f)) for f in files] if isinstance(files, list) else files
            for split, files in problems["files"].items()
        }
        tree["problems"] = problems | {"files": files}
    return tree
