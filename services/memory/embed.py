"""Embeddings without weights: hashed term and character n-gram features (the `hash` embedder).

Deterministic on every machine (blake2, not Python's salted hash). Sublinear term frequency, sign hashing,
unit length. It knows spelling, not meaning: enough for short formal texts and for a first start.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter

import numpy as np
import numpy.typing as npt

DIM = 512
EMBEDDER_ID = f"hash-{DIM}"

_TERM = re.compile(r"\w+")


def _features(text: str) -> Counter[str]:
    words = _TERM.findall(text.lower())
    grams = (f"#{w}#"[i : i + 3] for w in words for i in range(len(w)))
    return Counter([f"w:{w}" for w in words]) + Counter({f"g:{g}": n for g, n in Counter(grams).items()})


def embed(texts: list[str]) -> npt.NDArray[np.float32]:
    """Unit-length rows, float32 [len(texts), DIM]; an empty text is the zero row."""
    rows = np.zeros((len(texts), DIM), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for feature, count in _features(text).items():
            digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
            weight = (1.0 if feature.startswith("w:") else 0.25) * (1.0 + math.log(count))
            row[digest % DIM] += weight if digest >> 63 else -weight
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = rows / np.where(norms > 0, norms, np.float32(1.0))
    return unit
