"""Embeddings: one interface, three embedders. `hash` needs no weights, `local` a folder, `openai` an endpoint.

Invariants:
- Rows are unit length, so that a dot product is a cosine; a text without content may be the zero row.
- An embedder's `id` names what made its vectors, weights included: vectors of different ids are never compared.
- Nothing is loaded or asked for before the first text is embedded.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pmd.services.common.waiting import Away

Rows = npt.NDArray[np.float32]
"""float32 [texts, dimensions], unit length."""


class EmbedderDown(Away):
    """The embedder can't be reached, starts or has too much to do."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    id: str

    def embed(self, texts: Sequence[str]) -> Rows:
        """One row per text.

        Raises:
            EmbedderDown: when it is away, starts or has too much to do.
            Retryable: when it tried and failed, and the same call may succeed later.
            ValueError: when it never will (wrong model, wrong key, wrong dimension).
        """
        ...


def unit(rows: npt.NDArray[np.floating]) -> Rows:
    """`rows` scaled to unit length; zero rows stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1.0), dtype=np.float32)


_TERM = re.compile(r"\w+")


class HashEmbedder:
    """Hashed term and character n-gram features: no weights, the same on every machine (blake2, not Python's hash).

    Sublinear term frequency, sign hashing. It knows spelling, not meaning: enough for short formal texts and for a
    first start.
    """

    DIM = 512

    def __init__(self) -> None:
        self.id = f"hash-{self.DIM}"

    def embed(self, texts: Sequence[str]) -> Rows:
        rows = np.zeros((len(texts), self.DIM), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, count in self._features(text).items():
                digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
                weight = (1.0 if feature.startswith("w:") else 0.25) * (1.0 + math.log(count))
                row[digest % self.DIM] += weight if digest >> 63 else -weight
        return unit(rows)

    @staticmethod
    def _features(text: str) -> Counter[str]:
        words = _TERM.findall(text.lower())
        grams = (f"#{w}#"[i : i + 3] for w in words for i in range(len(w)))
        return Counter([f"w:{w}" for w in words]) + Counter({f"g:{g}": n for g, n in Counter(grams).items()})
