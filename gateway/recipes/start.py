"""The bank that a run begins with: found, checked against the run's own problems, and frozen.

Invariants:
- What is imported is one file below the run, named by its hash; what became of its source afterwards changes nothing.
- No evaluation problem enters with it (Law 3): a bank that holds attempts at one is refused.
- A problem of the bank is never taken for another one of this run that has its name: it gets a name of its own, and
  with it all that is about it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pmd.gateway.recipes.datasets.records import Unreadable, records_of
from pmd.gateway.recipes.inputs import StartBank
from pmd.gateway.recipes.models.names import hub_name
from pmd.gateway.recipes.recipe import OF_RUN, Recipe, start_of_run
from pmd.services.common.artifacts import dump_messages, join, write_bytes
from pmd.services.common.wire import Problem, Ref

FIELD = "memory.start_from"
MAX_BYTES = 2 * 2**30
"""Largest export; the memory service takes no larger one."""


class WrongStart(ValueError):
    """The run can't begin with this bank; the message says why."""


def _no_runs(run: str, moment: str | None) -> tuple[bytes, str | None]:  # noqa: ARG001 -- an `Export`
    raise WrongStart(f"run {run!r} can't be asked for its bank here; export it to a file")


@dataclass(frozen=True)
class Banks:
    """What the installation knows of banks."""

    export: Callable[[str, str | None], tuple[bytes, str | None]] = _no_runs
    """The bank of a run at a moment as JSON lines, and the run's model; raises `WrongStart`."""
    objection: Callable[[bytes], str] = lambda content: ""  # noqa: ARG005 -- nobody to ask
    """What the memory service has against an export, with the line and the field; empty: nothing."""


@dataclass(frozen=True)
class Start:
    """A bank to begin with, looked at."""

    about: StartBank
    content: bytes


def bare_model(model: str | None) -> str | None:
    """What a model is called outside this machine: a name of the hub as it is, of a folder its last part."""
    if model is None or hub_name(model):
        return model
    return model.rstrip("/").rpartition("/")[2]


def freeze(start: Start | None, root: str) -> StartBank | None:
    """Write the bank that a run begins with below the run's folder."""
    if start is None:
        return None
    digest = hashlib.sha256(start.content).hexdigest()
    file = write_bytes(join(root, "memory", f"start.{digest[:8]}.jsonl"), start.content)
    return start.about.model_copy(update={"file": file})


def find_start(recipe: Recipe, problems: Sequence[Problem], banks: Banks) -> Start | None:
    """The bank that a recipe's run begins with; None where it begins with an empty one.

    Args:
        problems: the run's own.

    Raises:
        WrongStart: when there is none, it is no bank, or this run may not begin with it.
    """
    if (source := recipe.start_from) is None:
        return None
    model: str | None = None
    if source.startswith(OF_RUN):
        content, model = banks.export(*start_of_run(source))
    else:
        content = _read(source)
    about, frozen = _checked(content, source, bare_model(model), problems, recipe)
    if said := banks.objection(frozen):
        raise WrongStart(f"{source}: {said}")
    return Start(about, frozen)


def _read(uri: str) -> bytes:
    try:
        content = b"".join(line + b"\n" for _, _, line in records_of(uri))
    except Unreadable as error:
        raise WrongStart(str(error)) from error
    if len(content) > MAX_BYTES:
        raise WrongStart(f"{uri} has over {MAX_BYTES >> 30} GB")
    return content


def _checked(
    content: bytes, source: str, model: str | None, problems: Sequence[Problem], recipe: Recipe
) -> tuple[StartBank, bytes]:
    """What a bank is, and its lines with its problems under names that are none of this run's other problems."""
    lines = list(_values(content, source))
    head = lines[0] if lines else {}
    if head.get("format") != "pmd-bank":
        raise WrongStart(f'{source} is no export of a bank: it begins {{"format": "pmd-bank", "version": 1, ..}}')
    model = model or head.get("model")
    origin, seq = str(head.get("bank") or ""), head.get("seq")
    names = _names([line["problem"] for line in lines if "problem" in line], origin, source, problems, recipe)
    renamed = {old: new for old, new in names.items() if old != new}
    counted: Counter[str] = Counter()
    written = []
    for line in lines:
        item = line.get("item")
        if isinstance(item, dict):
            counted[str(item.get("level"))] += item.get("status") == "active"
        written.append(json.dumps(_under(line, renamed), ensure_ascii=False))
    written[0] = json.dumps(head | ({"model": model} if model else {}), ensure_ascii=False)
    frozen = ("\n".join(written) + "\n").encode()
    about = StartBank(
        source=source,
        file=Ref(uri="", sha256="", bytes=len(frozen)),
        sha256=hashlib.sha256(content).hexdigest(),
        origin=origin,
        model=model,
        seq=seq if isinstance(seq, int) else None,
        items=dict(sorted(counted.items())),
        problems=len(names),
        renamed_problems=len(renamed),
    )
    return about, frozen


def _values(content: bytes, source: str) -> Iterator[dict[str, Any]]:
    for number, raw in enumerate(content.splitlines(), 1):
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise WrongStart(f"{source} line {number}: no JSON") from error
        if not isinstance(value, dict):
            raise WrongStart(f"{source} line {number}: no JSON object")
        yield value


def _names(
    bodies: Sequence[Any], origin: str, source: str, problems: Sequence[Problem], recipe: Recipe
) -> dict[str, str]:
    """The name here of each problem of a bank.

    Raises:
        WrongStart: when one of them is evaluated by this run.
    """
    ours = {problem.id: dump_messages(problem.messages) for problem in problems}
    trained = {dump_messages(p.messages) for p in problems if p.split == "train"}
    asked = {dump_messages(p.messages): p.id for p in problems if p.split != "train"}
    shared = getattr(recipe.problems, "shared_questions", False)
    names: dict[str, str] = {}
    for body in bodies:
        try:
            problem = Problem.model_validate(body)
        except ValidationError as error:
            raise WrongStart(f"{source}: a problem of it is none: {error.errors()[0]['msg']}") from error
        question = dump_messages(problem.messages)
        if question in asked and not (shared and question in trained):
            raise WrongStart(
                f"{source} holds attempts at {problem.id!r}, which this run evaluates as {asked[question]!r}:"
                " evaluation problems never enter a bank; begin with another bank, or evaluate on other problems"
            )
        taken = ours.get(problem.id, question) != question
        mark = hashlib.sha256(f"{origin}/{problem.id}".encode()).hexdigest()[:8]
        names[problem.id] = f"of-{mark}.{problem.id}"[:128] if taken else problem.id
    return names


def _under(line: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A line of an export with its problem under another name."""
    if not names:
        return line
    problem, item = line.get("problem"), line.get("item")
    if isinstance(problem, dict):
        return line | {"problem": problem | {"id": names.get(problem["id"], problem["id"])}}
    if not isinstance(item, dict):
        return line
    if item.get("level") in {"experience", "insight"}:
        item = item | {"scope": names.get(item.get("scope", ""), item.get("scope"))}
    facts = item.get("facts")
    if isinstance(facts, dict) and isinstance(facts.get("problems"), list):
        item = item | {"facts": facts | {"problems": [names.get(pid, pid) for pid in facts["problems"]]}}
    return line | {"item": item}
