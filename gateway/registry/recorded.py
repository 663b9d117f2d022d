"""From rows of the registry to what the plan of a run is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import RowMapping

from pmd.gateway.loop.state import PhaseName, Record, RunState
from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.recipe import Recipe


@dataclass(frozen=True)
class Attempt:
    """The newest attempt of a phase that is not recorded."""

    number: int
    status: str
    failures: int
    """Failed attempts since the run was created or resumed."""


def recorded(
    run: str, row: RowMapping, phases: Iterable[RowMapping]
) -> tuple[RunState, dict[tuple[int, PhaseName], Attempt]]:
    """The state of a run, and the attempts of phases that are not recorded.

    Args:
        row: its recipe and inputs.
        phases: all attempts of its phases; those of one phase in order.
    """
    records: dict[tuple[int, PhaseName], Record] = {}
    attempts: dict[tuple[int, PhaseName], Attempt] = {}
    for phase in phases:
        at = (phase["step"], PhaseName(phase["name"]))
        if phase["status"] == "succeeded":
            records[at] = Record(json.loads(phase["result"]), json.loads(phase["facts"]), phase["seconds"])
            attempts.pop(at, None)
        elif at not in records:
            before = attempts[at].failures if at in attempts else 0
            attempts[at] = Attempt(phase["attempt"], phase["status"], before + (phase["status"] == "failed"))
    numbers = {at: a.number + (a.status != "submitted") for at, a in attempts.items()}
    recipe, inputs = Recipe.model_validate_json(row["recipe"]), Inputs.model_validate_json(row["inputs"])
    return RunState(run, recipe, inputs, records, numbers), attempts
