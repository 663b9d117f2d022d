"""What a run starts with, written once when it is created: its problems, its prompts, its base model.

Invariants:
- `prompts.parquet` holds questions only. Expected answers are in `problems.parquet`, which goes to the verifier and
  the memory service and never to the rollout service (Law 4).
- Problem ids are unique, and no evaluation problem is a training problem (Law 3).
- Version 0 is the base model's own files (hard links where the disk allows), sealed by a manifest.
- Doing it twice writes the same bytes, so a creation that was cut short can be repeated.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from pydantic import ValidationError

from gateway.recipe import FileProblems, Method, PocketProblems, Recipe
from gateway.state import Inputs
from services.common.artifacts import (
    MANIFEST,
    ArtifactError,
    dump_messages,
    join,
    local_path,
    seal_weights,
    write_problems,
    write_table,
)
from services.common.strict import explain
from services.common.wire import PROMPTS, Problem, Weights


class InvalidRecipe(ValueError):
    """The recipe can't be carried out; `fields` name what is wrong, by dotted key."""

    def __init__(self, fields: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{field['field']}: {field['message']}" for field in fields))
        self.fields = fields


def _invalid(field: str, message: str) -> InvalidRecipe:
    return InvalidRecipe([{"field": field, "message": message}])


def parse_recipe(tree: dict[str, Any]) -> Recipe:
    """The recipe that `tree` describes.

    Raises:
        InvalidRecipe: naming each wrong key, and the nearest valid one for an unknown key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InvalidRecipe([_readable(field, tree) for field in explain(error, Recipe)]) from error


def _readable(field: dict[str, str], tree: dict[str, Any]) -> dict[str, str]:
    """A pydantic message as people write keys: no union tags in the path, the key of a cross-check as the field."""
    path, message = field["field"], field["message"].removeprefix("Value error, ")
    problems = tree.get("problems")
    tag = problems.get("source") if isinstance(problems, dict) else None
    if tag and path.startswith(f"problems.{tag}"):
        path = "problems" + path.removeprefix(f"problems.{tag}")
    if not path and ": " in message:  # written by `Recipe` itself as "dotted.key: cause and fix"
        path, message = message.split(": ", 1)
    return {"field": path, "message": message}


def load_problems(source: PocketProblems | FileProblems) -> list[Problem]:
    """The problems of a recipe, checked.

    Raises:
        InvalidRecipe: naming file, line and field of the first problem that is wrong.
    """
    problems = list(_pocket(source) if isinstance(source, PocketProblems) else _files(source.files))
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise _invalid("problems", f"problem id {problem.id!r} occurs twice; ids are unique across splits")
        seen.add(problem.id)
    practised = {dump_messages(p.messages): p.id for p in problems if p.split == "train"}
    if not (isinstance(source, FileProblems) and source.shared_questions):
        for problem in problems:
            twin = practised.get(dump_messages(problem.messages))
            if problem.split != "train" and twin is not None:
                raise _invalid(
                    "problems",
                    f"{problem.split} problem {problem.id!r} asks what train problem {twin!r} asks; remove one, or set"
                    " problems.shared_questions if only their hidden tests differ",
                )
    return problems


def _pocket(source: PocketProblems) -> Iterator[Problem]:
    from examples.pocket.world import problem_sets  # noqa: PLC0415 -- a gateway without the example still starts

    try:
        sets = problem_sets(**source.model_dump(exclude={"source"}))
    except ValueError as error:
        raise _invalid("problems", str(error)) from error
    for records in sets.values():
        yield from (Problem.model_validate(record) for record in records)


def _files(files: Iterable[str]) -> Iterator[Problem]:
    for uri in files:
        try:
            with fsspec.open(uri, "rt", encoding="utf-8") as f:
                lines = f.read().splitlines()
        except (OSError, ValueError) as error:
            raise _invalid("problems.files", f"{uri} can't be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _problem(line, f"{uri} line {number}")


def _problem(line: str, where: str) -> Problem:
    try:
        return Problem.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise _invalid("problems.files", f"{where}: no JSON: {error}") from error
    except ValidationError as error:
        first = explain(error, Problem)[0]
        raise _invalid("problems.files", f"{where}: field {first['field']!r}: {first['message']}") from error


def materialise(recipe: Recipe, run: str, runs_uri: str) -> Inputs:
    """Write what `run` starts with below `runs_uri`.

    Raises:
        InvalidRecipe: when the problems or the model can't be used.
    """
    problems = load_problems(recipe.problems)
    train = tuple(p.id for p in problems if p.split == "train")
    evaluation = tuple(p.id for p in problems if p.split in recipe.evaluation.splits)
    per_step = recipe.schedule.problems_per_step
    if recipe.method is not Method.BASE and recipe.schedule.steps and per_step > len(train):
        raise _invalid(
            "schedule.problems_per_step", f"{per_step} problems a step, but only {len(train)} of split train"
        )
    root = join(runs_uri, run)
    base = _link_base(recipe.model, join(root, "weights", "v0000"), run)
    prompts = (
        {"prompt_id": p.id, "problem_id": p.id, "split": p.split, "messages": dump_messages(p.messages)}
        for p in problems
    )
    return Inputs(
        root=root,
        base=base,
        problems=write_problems(join(root, "problems", "problems.parquet"), problems),
        prompts=write_table(join(root, "problems", "prompts.parquet"), prompts, PROMPTS),
        train=train,
        evaluation=evaluation,
    )


def find_model(model: str) -> Path:
    """The folder of the base model.

    Raises:
        InvalidRecipe: when it is no Hugging Face folder with safetensors.
    """
    try:
        folder = local_path(model)
    except ArtifactError as error:
        raise _invalid("model", str(error)) from error
    if not folder.is_absolute():
        raise _invalid("model", f"{model!r} is a relative path; send an absolute one")
    if not folder.is_dir():
        raise _invalid("model", f"no folder {folder}; give the Hugging Face folder of the base model")
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise _invalid("model", f"{folder} holds no {pattern}; give the Hugging Face folder of the base model")
    return folder


def _link_base(model: str, uri: str, run: str) -> Weights:
    source, folder = find_model(model), local_path(uri)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if path.name == MANIFEST or not path.is_file() or target.exists():
            continue
        origin = path.resolve()  # model caches hold links to blobs; a hard link to a link would dangle
        try:
            os.link(origin, target)
        except OSError:
            part = target.with_name(f"{target.name}.part")
            shutil.copyfile(origin, part)
            part.replace(target)
    return seal_weights(folder, 0, {"run": run, "step": 0, "base_model": model})
