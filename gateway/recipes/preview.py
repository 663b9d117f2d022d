"""What a recipe would do, looked at without starting anything: for dry runs, here or at the gateway.

Invariant: what is wrong is refused as creation refuses it; what is merely not here yet (problem files, a model or
data set of the hub) is named in `missing`, and the rest is still told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pmd.gateway.recipes import hub
from pmd.gateway.recipes.datasets.records import BadRecord, Unreadable
from pmd.gateway.recipes.downloads import Fetch
from pmd.gateway.recipes.inputs import StartBank
from pmd.gateway.recipes.models.estimate import estimate
from pmd.gateway.recipes.models.known import known_shape
from pmd.gateway.recipes.models.resolve import locate
from pmd.gateway.recipes.problems import (
    NO_BANKS,
    Away,
    Base,
    InvalidRecipe,
    Refused,
    advise,
    find_base,
    find_data,
    long_prompts,
    problems_of,
    start_of,
)
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.recipes.start import Banks
from pmd.services.common.wire import Problem, Split

REMEDIES = {
    "livecodebench": (
        "LiveCodeBench is not part of PMD: fetch test6.jsonl and its older parts of the data set"
        " livecodebench/code_generation_lite, as they are, to that place"
    ),
    "sciknoweval": (
        "SciKnowEval is not part of PMD: fetch the data set hicai-zju/SciKnowEval, keep level L3 of one domain and"
        " write its train and test records to those places (docs/models.md)"
    ),
}
"""How to come by problem files, by `source`."""


ABSENT = (FileNotFoundError, hub.HubAway, hub.NotHere)
"""Why problems can't be read that may be there later."""


@dataclass(frozen=True)
class Preview:
    """What is known of a run before it is one."""

    model: str | None
    """What `model` leads to; None when that could not be found out."""
    problems: dict[Split, int]
    bad: list[BadRecord]
    """Records of problem files that would be left out."""
    long: list[str]
    """Train problems that are too long to be trained on."""
    warnings: list[str]
    estimate: list[str]
    """Memory, disk and hours, and how they were worked out; empty where the model's sizes are not known."""
    missing: list[dict[str, str]]
    """What must be there before the run can start, by the recipe's key."""
    start: StartBank | None
    """The bank that it would begin with; its file is not written yet."""


def preview(
    recipe: Recipe, refused: Refused = lambda _: {}, banks: Banks = NO_BANKS, fetch: Fetch = hub.snapshot
) -> Preview:
    """What `recipe` would do.

    Args:
        fetch: what the files of a data set of the hub lead to.

    Raises:
        InvalidRecipe: creation would refuse it whatever is fetched.
    """
    missing: list[dict[str, str]] = []
    base: Base | None = None
    problems: list[Problem] = []
    bad: list[BadRecord] = []
    try:
        base = find_base(recipe, lambda model: locate(model, whole=False))
    except Away as error:
        missing += error.fields
    try:
        problems, bad = problems_of(find_data(recipe, fetch), refused)
    except InvalidRecipe as error:
        unreadable = error.__cause__
        if not isinstance(unreadable, Unreadable) or not isinstance(unreadable.__cause__, ABSENT):
            raise
        remedy = REMEDIES.get(recipe.problems.source, "")
        missing += [field | {"message": f"{field['message']}. {remedy}".strip()} for field in error.fields]
    start = start_of(recipe, problems, banks)
    shape = base.facts.shape if base else known_shape(recipe.model)
    evaluated = sum(problem.split in recipe.evaluation.splits for problem in problems)
    return Preview(
        model=base.located.name if base else None,
        problems=dict(Counter(problem.split for problem in problems)),
        bad=bad,
        long=long_prompts(recipe, problems, base) if base else [],
        warnings=advise(recipe, base, problems) if base else [],
        estimate=estimate(shape, recipe, evaluated) if shape else [],
        missing=missing,
        start=start.about if start else None,
    )
