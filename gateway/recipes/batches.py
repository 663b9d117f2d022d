"""Requests of bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

CHARS = 4 << 20
"""Of JSON in one request; a single value may be larger."""


def batches(values: Iterable[tuple[T, Any]], most: int) -> Iterator[list[T]]:
    """Values in order, each given with what is sent of it: at most `most`, and about `CHARS`, at a time."""
    batch: list[T] = []
    size = 0
    for value, sent in values:
        chars = len(json.dumps(sent))
        if batch and (len(batch) == most or size + chars > CHARS):
            yield batch
            batch, size = [], 0
        batch.append(value)
        size += chars
    if batch:
        yield batch
