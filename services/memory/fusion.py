"""Scores: BM25 for words, and the fusion of words with meaning.

Both follow what Weaviate 1.39 does, so that the embedded index finds what the cluster's finds:
- words are runs of letters and digits, lower-cased (tokenization `word`, no stop words);
- BM25 with k1 = 1.2, b = 0.75 and idf = ln(1 + (N - n + .5) / (n + .5)); a word asked twice counts twice
  (adapters/repos/db/inverted; equal to the server's scores on fresh banks, tests/memory/test_index.py);
- relative score fusion: the best `CANDIDATES` of each list are scaled so that its best is 1 and its worst 0, then
  added with weights alpha and 1 - alpha; a list whose scores are all equal counts as 1
  (usecases/traverser/hybrid/hybrid_fusion.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

K1 = 1.2
B = 0.75

_WORD = re.compile(r"[^\W_]+", re.UNICODE)

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


def words(text: str) -> list[str]:
    """The words of a text, in order, repeats included."""
    return _WORD.findall(text.lower())


def idf(documents: int, containing: int) -> float:
    """Inverse document frequency of a word that `containing` of `documents` use."""
    return float(np.log1p((documents - containing + 0.5) / (containing + 0.5)))


def best(scores: Scores, limit: int) -> Numbers:
    """Positions of the `limit` highest finite scores, best first; of equal scores the lower position first."""
    if len(scores) > limit:
        # Everything that ties with the last of the best is looked at, so that which of them stays is no accident.
        edge = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        chosen = np.flatnonzero(scores >= edge) if np.isfinite(edge) else np.flatnonzero(np.isfinite(scores))
    else:
        chosen = np.flatnonzero(np.isfinite(scores))
    order: Numbers = chosen[np.argsort(-scores[chosen], kind="stable")][:limit]
    return order


def relative_score(lists: Iterable[tuple[float, Numbers, Scores]]) -> dict[int, float]:
    """Fused score by position.

    Args:
        lists: weight, positions, and their scores (higher is better), each list the best of one kind.
    """
    fused: dict[int, float] = {}
    for weight, positions, scores in lists:
        if not weight or not len(positions):
            continue
        low, high = float(scores.min()), float(scores.max())
        scaled = (scores - low) / (high - low) if high > low else np.ones_like(scores)
        for position, score in zip(positions.tolist(), scaled.tolist(), strict=True):
            fused[position] = fused.get(position, 0.0) + weight * score
    return fused
