"""Labelled lines: one note a line.

    Strategy: rotate first, then add 3.
    Lesson: adding before rotating fails.
    Behavior: every zor begins with rotate.

A line in which the model runs in circles (`rotate rotate`, `tav trail tav trail`) is no note. The single word
`None` says that there is nothing to note. All other lines are dropped.
"""

from __future__ import annotations

import re
from typing import cast

from pmd.services.common.bank import Kind
from pmd.services.memory.write.found import AROUND, CIRCLE, LONG, Dropped, Found, Note

_LINE = re.compile(r"^\W{0,4}(strategy|lesson|behavior|behaviour)\W{0,2}\s*:\W{0,2}\s*(.+?)\s*$", re.IGNORECASE)
_NOTHING = re.compile(r"^\W*none\W*$", re.IGNORECASE)

_CIRCLE = re.compile(r"\b([^\W\d]\w*(?:\W+\w+){0,7}?)\s+\1\b", re.IGNORECASE)
"""Words, up to eight, and at once the same again. Numbers alone may repeat."""

MAX_LINE_CHARS = 600
"""Longer lines are no notes: the model copied something."""


def read(text: str) -> Found:
    """The labelled lines of an answer."""
    found = Found()
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            if _NOTHING.match(line):
                found.nothing = True
            elif line.strip():
                found.dropped.append(Dropped(AROUND, line.strip()))
        elif len(match[2]) > MAX_LINE_CHARS:
            found.dropped.append(Dropped(LONG, match[2]))
        elif _CIRCLE.search(match[2]):
            found.dropped.append(Dropped(CIRCLE, match[2]))
        else:
            kind = match[1].lower().replace("behaviour", "behavior")
            found.notes.append(Note(cast("Kind", kind), match[2]))
    return found
