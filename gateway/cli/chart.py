"""Curves in a terminal: braille dots where it can show them, stars where it can't.

Invariant: the vertical axis holds 0 to 1, and what is below 0, so that two charts can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from pmd.gateway.report.units import percent

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille cell, by row and column."""
BRAILLE = 0x2800
COLOURS = ("cyan", "magenta", "yellow", "green", "blue")
MARGIN = 7
"""Characters of the axis labels."""
WIDEST = 72

Points = Mapping[int, float]
"""Values by step."""


@dataclass(frozen=True)
class Chart:
    """Curves over the steps of a run, with a legend that has their newest values."""

    curves: Mapping[str, Points]
    steps: int
    """Where the horizontal axis ends."""
    height: int = 8
    """In lines, without axis and legend."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the legend says of a curve in place of a percentage."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as there is room."""
        width = min(WIDEST, options.max_width - MARGIN)
        if width < 2 or not any(self.curves.values()):
            return
        low = min(0.0, *(math.floor(4 * y) / 4 for points in self.curves.values() for y in points.values()))
        bits: dict[tuple[int, int], int] = {}
        colours: dict[tuple[int, int], str] = {}
        for number, points in enumerate(self.curves.values()):
            for column, y in path(points, self.steps, 2 * width):
                share = (min(y, 1.0) - low) / (1.0 - low)
                row = round((1.0 - share) * (4 * self.height - 1))
                at = (row // 4, column // 2)
                bits[at] = bits.get(at, 0) | DOTS[row % 4][column % 2]
                colours[at] = COLOURS[number % len(COLOURS)]
        for row in range(self.height):
            line = Text(self._label(row, low), style="dim", end="\n", no_wrap=True)
            for column in range(width):
                found = bits.get((row, column))
                sign = " " if found is None else "*" if options.ascii_only else chr(BRAILLE + found)
                line.append(sign, colours.get((row, column)))
            yield line
        last = str(self.steps)
        yield Text(f"{'step':>{MARGIN - 1}} 0{last:>{width - 1}}", style="dim", no_wrap=True)
        yield self._legend()

    def _label(self, row: int, low: float) -> str:
        at = {0: 1.0, self.height - 1: low}.get(row)
        return f"{'' if at is None else f'{100 * at:.0f} %':>{MARGIN - 1}} "

    def _legend(self) -> Text:
        legend = Text(" " * MARGIN)
        for number, (name, points) in enumerate(self.curves.items()):
            if points:
                told = self.notes.get(name) or percent(points[max(points)])
                legend.append(f"{name} {told}   ", COLOURS[number % len(COLOURS)])
        return legend


def path(points: Points, steps: int, columns: int) -> Iterator[tuple[int, float]]:
    """A curve as dots, one a column: straight lines between what is known.

    Args:
        columns: how many dots the horizontal axis, from step 0 to `steps`, has.
    """
    before: tuple[int, float] | None = None
    for step in sorted(points):
        column, y = round(min(step, steps) / max(1, steps) * (columns - 1)), points[step]
        if before is not None:
            for between in range(before[0] + 1, column):
                share = (between - before[0]) / (column - before[0])
                yield between, before[1] + share * (y - before[1])
        yield column, y
        before = column, y
