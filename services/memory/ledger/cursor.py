"""Cursors of lists that are read in pages: the place of a page's last row.

Invariant: the next page begins behind that place, whatever was written meanwhile. A row whose place stays is told once.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from typing import Any

_NEVER_STORED = re.compile("[\x00\ud800-\udfff]")
_LARGEST = 2**62


class BadCursor(ValueError):
    """The cursor does not come from a page of this list."""


def cursor(*place: str | float) -> str:
    """The cursor of a place, in characters that an address takes as they are."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def place(after: str, *kinds: type[str | float]) -> tuple[Any, ...]:
    """The place that a cursor names: values of these types.

    Raises:
        BadCursor: when `after` is no cursor, or one of another order.
    """
    try:
        found: Any = json.loads(base64.urlsafe_b64decode(after.encode()))
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise BadCursor(f"after: {after!r} is no cursor; pass `next` of the page before") from error
    if not isinstance(found, list) or not _fits(found, kinds):
        raise BadCursor(f"after: {after!r} is a cursor of another order; keep `sort` and the list while you page")
    if any(_NEVER_STORED.search(value) for value in found if isinstance(value, str)):
        raise BadCursor(f"after: {after!r} is no cursor; pass `next` of the page before")
    return tuple(found)


def _fits(values: Sequence[Any], kinds: Sequence[type[str | float]]) -> bool:
    return len(values) == len(kinds) and all(
        type(value) is kind and (isinstance(value, str) or (math.isfinite(value) and abs(value) < _LARGEST))
        for value, kind in zip(values, kinds, strict=True)
    )
