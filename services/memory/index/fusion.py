"""Scores: BM25 for words, and the fusion of words with meaning.

Both follow what Weaviate 1.39 does, so that the embedded index finds what the cluster's finds:
- words are runs of letters and digits, lower-cased (tokenization `word`, no stop words);
- BM25 with k1 = 1.2, b = 0.75 and idf = ln(1 + (N - n + .5) / (n + .5)); a word asked twice counts twice
  (adapters/repos/db/inverted; equal to the server's scores on fresh banks, tests/memory/index/test_index.py);
- relative score fusion: the best `CANDIDATES` of each list are scaled so that its best is 1 and its worst 0, then
  added with weights alpha and 1 - alpha; a list whose scores are all equal counts as 1
  (usecases/traverser/hybrid/hybrid_fusion.go).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

K1 = 1.2
B = 0.75

COLUMNS = 8
"""Columns for each of the best scores that are wanted, when their floor is sought."""

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
    chosen = np.flatnonzero(scores >= _floor(scores, limit))
    chosen = chosen[np.isfinite(scores[chosen])]
    order: Numbers = chosen[np.argsort(-scores[chosen], kind="stable")][:limit]
    return order


def _floor(scores: Scores, limit: int) -> float:
    """A bound that at least `limit` scores reach, and few others: cheaper than a partition of all of them.

    Scores are dealt into columns; each column's maximum is a score, so `limit` of them reach the `limit`th highest.
    """
    columns = COLUMNS * limit
    rows = len(scores) // columns
    if not rows:
        return -np.inf
    highest = scores[: rows * columns].reshape(rows, columns).max(axis=0)
    return float(np.partition(highest, columns - limit)[columns - limit])


def relative_score(lists: Sequence[tuple[float, Numbers, Scores]]) -> tuple[Numbers, npt.NDArray[np.float64]]:
    """Positions, each once in ascending order, and their fused scores.

    Args:
        lists: weight, positions, and their scores (higher is better), each list the best of one kind.
    """
    weighed = [(weight, positions, scores) for weight, positions, scores in lists if weight and len(positions)]
    if not weighed:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    parts = [weight * _scaled(scores).astype(np.float64) for weight, _, scores in weighed]
    found, place = np.unique(np.concatenate([positions for _, positions, _ in weighed]), return_inverse=True)
    return found, np.asarray(np.bincount(place, weights=np.concatenate(parts)), dtype=np.float64)


def _scaled(scores: Scores) -> Scores:
    low, high = scores.min(), scores.max()
    return np.asarray((scores - low) / (high - low)) if high > low else np.ones_like(scores)
