"""What an index finds for problems, and which of that may be shown.

Invariants:
- An index only proposes: what it finds is shown as the ledger has it, or not at all.
- What is read of the ledger grows with what is shown, not with what an index finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from pmd.services.common.options import ContextSettings
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.bank import by_scope
from pmd.services.memory.evidence.terms import stem
from pmd.services.memory.index.index import CANDIDATES, Hit
from pmd.services.memory.index.search import Search
from pmd.services.memory.ledger import CLUSTER, Item
from pmd.services.memory.retrieve.showable import Showable

SCORE_DIGITS = 4
SPARE = 4
"""Strategies of other problems that are read for each that may be shown."""


class Found(NamedTuple):
    """An item and its cosine similarity to a problem."""

    similarity: float
    item: Item


@dataclass(frozen=True)
class Searched:
    """What an index found for some problems."""

    problems: Sequence[Problem]
    hits: Sequence[Sequence[Hit]]
    index: str
    degraded: bool


def ask_index(
    search: Search,
    bank: str,
    level: Level,
    problems: Sequence[Problem],
    settings: ContextSettings,
    check: Callable[[], None],
) -> Searched:
    """What the index finds of a level for each problem: by its question, without the options that it gives."""
    asked = [stem(p.question()) for p in problems]
    weight = settings.vector_weight if level in settings.by_meaning else 1.0
    found = search.find(bank, level, asked, alpha=weight, limit=CANDIDATES, compare=True, check=check)
    return Searched(problems, found.hits, found.index, found.degraded)


def near_by(
    searched: Searched, showable: Showable, level: Level, clusters: Mapping[str, str]
) -> dict[str, Sequence[Found]]:
    """For each problem the rules of its cluster, and the found items of others, best first: those that may be shown, as
    the ledger has them."""
    settings = showable.settings
    most = settings.k
    if level == "insight":  # some may be doubted here, or say what another says
        most = SPARE * settings.foreign
    theirs = by_scope(showable.behaviors if level == "behavior" else ())
    near: dict[str, Sequence[Found]] = {}
    for problem, alike in zip(searched.problems, _alike(searched, showable, level, most), strict=True):
        own = theirs.get(clusters.get(problem.id, ""), [])
        others = [found for found in alike if found.item not in own]
        near[problem.id] = [*(Found(1.0, i) for i in own), *others][:most]
    return near


def _alike(searched: Searched, showable: Showable, level: Level, most: int) -> list[list[Found]]:
    """For each of the searched problems the items of others that are alike enough and may be shown: `most` of them, or
    more, best first.

    The ledger is read in growing portions: mostly the first is enough, whatever an index finds.
    """
    settings = showable.settings

    def floor(item: Item) -> float:
        """Rules that stand for no problem's cluster are compared by their own words alone."""
        compared = level == "insight" or item.scope.startswith(CLUSTER)
        return settings.foreign_similarity if compared else settings.min_similarity

    lowest = min(settings.foreign_similarity, settings.min_similarity)
    # Indexes order equals as they like, and agree on scores up to rounding: equals are read together.
    waiting = [
        [list(equal) for _, equal in groupby(sorted(hits, key=_rank), key=_rank)]
        for hits in ([h for h in found if h.cosine is not None and h.cosine >= lowest] for found in searched.hits)
    ]
    alike: list[list[Found]] = [[] for _ in waiting]
    portion = 2 * most
    while True:
        parts = [_taken(left, portion) if len(found) < most else [] for left, found in zip(waiting, alike, strict=True)]
        ids = list(dict.fromkeys(hit.id for part in parts for hit in part))
        if not ids:
            return alike
        shown = {i.id: i for i in showable.shown(level, showable.view.among(level, ids).values()) if i.kind != "lesson"}
        for problem, part, found in zip(searched.problems, parts, alike, strict=True):
            there = [(h, shown[h.id]) for h in part if h.id in shown]
            fits = [(h, i) for h, i in there if i.scope != problem.id and (h.cosine or 0.0) >= floor(i)]
            fits.sort(key=lambda pair: (_rank(pair[0]), pair[1].scope, pair[1].text))
            found += [Found(h.cosine or 0.0, i) for h, i in fits]
        portion *= 4


def _rank(hit: Hit) -> float:
    return -round(hit.score, SCORE_DIGITS)


def _taken(groups: list[list[Hit]], count: int) -> list[Hit]:
    """The first groups of hits, taken away: as many as hold `count`, or all."""
    part: list[Hit] = []
    while groups and len(part) < count:
        part += groups.pop(0)
    return part
