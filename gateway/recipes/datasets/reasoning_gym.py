"""Problems that reasoning-gym generates, made once when a run is created.

The generator is a program, but of the installation: a recipe names it and its settings only. What it makes are entries
whose scorer the verifier runs in its sandbox (kind `reasoning_gym`).

Invariants:
- The same name, settings, seeds and sizes give the same problems, with one version of reasoning-gym.
- A question stands in one split, the first that has it: evaluation never asks what was trained on (Law 3).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pmd.gateway.recipes.datasets.records import BadRecord
from pmd.services.common import values
from pmd.services.common.wire import Message, Problem, Split

if TYPE_CHECKING:
    from pmd.gateway.recipes.recipe import ReasoningGymProblems

SEEDS: dict[Split, int] = {"train": 0, "test": 1, "unseen": 2}
LOOKED_AT = 8
"""Entries that are generated for each that is wanted, at most: small settings repeat themselves."""


def generate(source: ReasoningGymProblems) -> tuple[list[Problem], list[BadRecord]]:
    """The problems of a recipe, and the entries that can't be kept.

    Raises:
        ValueError: there is no such generator, it refuses its settings, or it has too few different questions.
    """
    try:
        import reasoning_gym  # noqa: PLC0415 -- a gateway without it still starts
        from reasoning_gym.factory import DATASETS  # noqa: PLC0415
    except ImportError as error:
        fix = "install pmd[reasoning-gym]; in containers take the image api-gym in place of api"
        raise ValueError(f"reasoning-gym is not installed here; {fix}") from error
    if source.dataset not in DATASETS:
        near = difflib.get_close_matches(source.dataset, list(DATASETS), n=1)
        raise ValueError(
            f"dataset: reasoning-gym has no {source.dataset!r}" + (f"; did you mean {near[0]!r}?" * bool(near))
        )
    asked: set[str] = set()
    problems: list[Problem] = []
    bad: list[BadRecord] = []
    for split, size in sorted(source.sizes.items(), key=lambda item: list(SEEDS).index(item[0])):
        made = 0
        try:
            entries = reasoning_gym.create_dataset(
                source.dataset,
                **{**source.settings, "seed": source.seeds.get(split, SEEDS[split]), "size": LOOKED_AT * size},
            )
            for number, entry in _different(entries, asked):
                try:
                    problems.append(_problem(source, split, number, entry))
                except values.NoValue as error:
                    bad.append(BadRecord(where=f"{source.dataset} {split} {number}", field="", message=str(error)))
                made += 1
                if made == size:
                    break
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"settings: {source.dataset} refuses them: {error}") from error
        if made < size:
            raise ValueError(
                f"sizes.{split}: {source.dataset} has only {made} different questions more in {LOOKED_AT * size} tries;"
                " ask for fewer or widen its settings"
            )
    return problems, bad


def _different(entries: Any, asked: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries whose question was not asked before."""
    for number in range(len(entries)):
        entry = entries[number]
        if entry["question"] not in asked:
            asked.add(entry["question"])
            yield number, entry


def _problem(source: ReasoningGymProblems, split: Split, number: int, entry: dict[str, Any]) -> Problem:
    ask = f"{entry['question'].strip()}\n\n{source.instruction}".strip()
    return Problem(
        id=f"{source.dataset}-{split}-{number}",
        messages=[Message(role="user", content=ask)],
        verifier={
            "kind": "reasoning_gym",
            "dataset": source.dataset,
            "settings": source.settings,
            "entry": values.encode(entry),
            "extract": source.extract,
            "pass_at": source.pass_at,
        },
        domain=source.dataset,
        split=split,
    )
