"""Verifier specs of problem files, checked before a run is created by the verifier, which alone knows what a spec is.

Invariant: only what the verifier refuses is refused. One that is away, or that takes too long, refuses nothing; in its
jobs a wrong spec then spoils the rollouts of its own problem.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pmd.gateway.recipes.batches import batches
from pmd.gateway.recipes.datasets.records import BadRecord
from pmd.services.common.wire import Problem

log = logging.getLogger(__name__)

BATCH_SPECS = 1000
CHECK_S = 30.0
"""For all of a recipe's specs, and longest wait for an answer: whoever creates a run waits for it."""

Ask = Callable[[Mapping[str, Any]], tuple[int, Any]]
"""Status and answer of the verifier's `POST /v1/specs:validate`."""


def refused(problems: Sequence[Problem], ask: Ask) -> dict[str, BadRecord]:
    """Problems whose spec the verifier refuses, by id, and why."""
    found: dict[str, BadRecord] = {}
    until = time.monotonic() + CHECK_S
    for batch in batches(((problem, problem.verifier) for problem in problems), BATCH_SPECS):
        if time.monotonic() > until or not _check(batch, ask, found):
            log.warning("the verifier has not checked all specs of a recipe; what is wrong will show in its verdicts")
            break
    return found


def _check(batch: list[Problem], ask: Ask, found: dict[str, BadRecord]) -> bool:
    """Note what is refused; False when there is no telling."""
    status, answer = ask({"specs": [problem.verifier for problem in batch]})
    if status == 200:
        for spec in answer["refused"]:
            _note(batch[spec["index"]], spec["errors"][0], found)
    elif status in (400, 422) and len(batch) == 1:
        _note(batch[0], {"field": "", "message": answer["title"]}, found)
    elif status in (400, 422):  # one of them can't even be read, nested too deep perhaps; the others may be right
        half = len(batch) // 2
        return _check(batch[:half], ask, found) and _check(batch[half:], ask, found)
    return status in (200, 400, 422) or (status == 413 and len(batch) == 1)


def _note(problem: Problem, error: Mapping[str, str], found: dict[str, BadRecord]) -> None:
    field = f"verifier.{error['field']}".rstrip(".")
    found[problem.id] = BadRecord(
        where=f"problem {problem.id}", field=field, message=error["message"].removeprefix("Value error, ")
    )
