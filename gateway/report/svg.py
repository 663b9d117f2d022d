"""Plots as inline SVG: lines, stacked bars and small multiples that stay readable on a phone.

Invariants: every plot has a title and a description for screen readers, axis labels with units, and its series
labelled in place; series differ by dash or order, not by colour alone. Colours are CSS classes, so that one
drawing serves light and dark.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pmd.gateway.report.units import count, percent

WIDTH = 400
"""Units of the view box: about the width of a phone, so that text can be read there."""
GLYPH = 7.2
"""Room for an average glyph. `plot.css` sets the size of text: 12 units, 13.5 on a phone."""
BOLD = 8.5
"""The same for labels, where a wide font is the only one."""
LINE = 16.0
PLOT_STYLE = (Path(__file__).parent / "plot.css").read_text(encoding="utf-8")
"""The style sheet of drawings, for the page that holds them or a file of its own."""
DASHES = {"solid": "", "dashed": "6 4", "dotted": "1.5 4"}

Points = Sequence[tuple[float, float]]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """One line, with the CSS class that colours it."""

    label: str
    points: Points
    css: str
    dash: str = "solid"
    markers: bool = False


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover `low`..`high`."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def whole_ticks(low: float, high: float) -> list[float]:
    """`ticks` of steps: there is no half step."""
    return [tick for tick in ticks(low, high) if tick == int(tick)]


@dataclass(frozen=True)
class Frame:
    """A plotting area and its scales."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log2: bool = False

    def x(self, value: float) -> float:
        """Horizontal position."""
        low, high = self.x_range
        if self.log2:
            value, low, high = math.log2(value), math.log2(low), math.log2(high)
        return self.left + (self.right - self.left) * ((value - low) / (high - low) if high > low else 0.5)

    def y(self, value: float) -> float:
        """Vertical position."""
        low, high = self.y_range
        return self.bottom - (self.bottom - self.top) * ((value - low) / (high - low) if high > low else 0.0)


def text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "axis") -> str:
    """A text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(words)}</text>'


def figure(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    """Parts as one accessible drawing."""
    key = f"f{zlib.crc32(f'{title}/{description}'.encode()):08x}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{key}-t {key}-d" '
        f'xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _y_axis(frame: Frame, values: Sequence[float], form: Format) -> list[str]:
    parts = []
    for value in values:
        y = frame.y(value)
        parts.append(f'<line x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(frame.left - 7, y + 4, form(value), anchor="end"))
    return parts


def _x_axis(frame: Frame, values: Sequence[float], label: str, form: Format) -> list[str]:
    parts = [text(frame.x(value), frame.bottom + 17, form(value), anchor="middle") for value in values]
    middle = (frame.left + frame.right) / 2
    return [*parts, text(middle, frame.bottom + 34, label, anchor="middle")]


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart and within bounds as far as there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def _path(frame: Frame, points: Points) -> str:
    return "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)


def _line(frame: Frame, each: Series, form: Format, x_word: str) -> str:
    dash = f' stroke-dasharray="{DASHES[each.dash]}"' if DASHES[each.dash] else ""
    drawn = f'<path d="{_path(frame, each.points)}" class="line {each.css}"{dash}/>'
    if each.markers or len(each.points) == 1:
        drawn += "".join(
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" class="dot {each.css}">'
            f"<title>{escape(f'{each.label}, {x_word} {x:g}: {form(y)}')}</title></circle>"
            for x, y in each.points
        )
    return drawn


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    x_label: str = "step",
    y_form: Format = percent,
    y_max: float | None = 1.0,
    log2: bool = False,
    shade: tuple[Points, Points] | None = None,
    height: float = 270,
) -> str:
    """Lines over a common axis, each labelled at its end.

    Args:
        y_max: top of the axis; None takes the largest value.
        log2: the horizontal axis is logarithmic, with a tick at each x that occurs.
        shade: two lines with equal x; the area between them is filled.
    """
    drawn = [each for each in series if each.points]
    xs = sorted({x for each in drawn for x, _ in each.points}) or [0.0, 1.0]
    top = y_max or max((y for each in drawn for _, y in each.points), default=1.0) * 1.05 or 1.0
    y_ticks = ticks(0.0, top, 4)
    left = 15 + GLYPH * max(len(y_form(value)) for value in y_ticks)
    right = WIDTH - 14 - BOLD * max((len(each.label) for each in drawn), default=0)
    frame = Frame(left, 12, right, height - 44, (xs[0], xs[-1]), (0.0, top), log2)
    parts = _y_axis(frame, y_ticks, y_form)
    parts += _x_axis(frame, xs if log2 else whole_ticks(xs[0], xs[-1]), x_label, lambda v: f"{v:g}")
    if shade is not None and shade[0]:
        upper, lower = shade
        parts.append(f'<path d="{_path(frame, upper)}L{_path(frame, lower[::-1])[1:]}Z" class="shade"/>')
    parts += [_line(frame, each, y_form, x_label) for each in drawn]
    ends = spread([frame.y(each.points[-1][1]) for each in drawn], frame.top, frame.bottom)
    for each, y in zip(drawn, ends, strict=True):
        parts.append(text(frame.right + 8, y + 4, each.label, css=f"name {each.css}"))
    return figure(title, description, height, parts)


def small_multiples(
    title: str, description: str, series: Sequence[Series], *, x_label: str = "step", y_form: Format = count
) -> str:
    """One narrow panel per line, each with its own scale: for quantities of different size."""
    drawn = [each for each in series if each.points]
    panel, gap = 56.0, 32.0
    height = 24 + len(drawn) * (panel + gap) + 16
    xs = [x for each in drawn for x, _ in each.points] or [0.0, 1.0]
    parts: list[str] = []
    for row, each in enumerate(drawn):
        top = 24 + row * (panel + gap)
        most = max(y for _, y in each.points) or 1.0
        frame = Frame(58, top, WIDTH - 62, top + panel, (min(xs), max(xs)), (0.0, most))
        parts += _y_axis(frame, [0.0, most], y_form)
        parts.append(
            f'<path d="{_path(frame, each.points)}L{frame.x(each.points[-1][0]):.1f} {frame.bottom:.1f}'
            f'L{frame.x(each.points[0][0]):.1f} {frame.bottom:.1f}Z" class="fill {each.css}"/>'
        )
        parts.append(_line(frame, each, y_form, x_label))
        parts.append(text(frame.left, top - 8, each.label, css=f"name {each.css}"))
        parts.append(
            text(frame.right + 8, frame.y(each.points[-1][1]) + 4, y_form(each.points[-1][1]), css=f"name {each.css}")
        )
        if row == len(drawn) - 1:
            parts += _x_axis(frame, whole_ticks(min(xs), max(xs)), x_label, lambda v: f"{v:g}")
    return figure(title, description, height, parts)


@dataclass(frozen=True)
class _Bins:
    """Steps in bins of equal width, so that a long run has bars that can be seen."""

    first: float
    width: int
    members: Mapping[int, Sequence[float]]

    def mean(self, points: Points) -> dict[int, float]:
        """Mean of `points` in each bin; a step without a point counts as zero, as it adds nothing to its bar."""
        values = dict(points)
        return {i: sum(values.get(x, 0.0) for x in xs) / len(xs) for i, xs in self.members.items()}

    def name(self, i: int) -> str:
        """The steps of a bin."""
        xs = self.members[i]
        return f"{xs[0]:g}" if len(xs) == 1 else f"{xs[0]:g}–{xs[-1]:g}"

    def place(self, x: float) -> float:
        """Where the middle of step `x` stands, in bins."""
        return (x - self.first + 0.5) / self.width


def _bin(xs: Sequence[float], most: int) -> _Bins:
    width = max(1, math.ceil((xs[-1] - xs[0] + 1) / most))
    members: dict[int, list[float]] = {}
    for x in xs:
        members.setdefault(int((x - xs[0]) // width), []).append(x)
    return _Bins(xs[0], width, members)


def stacked_bars(
    title: str,
    description: str,
    stacks: Mapping[str, tuple[str, Points]],
    *,
    y_label: str,
    y_form: Format,
    y_max: float | None = None,
    x_label: str = "step",
    height: float = 270,
    most_bars: int = 80,
) -> str:
    """Bars of parts, `stacks` being `{label: (css, points)}` from the bottom up, with a legend below.

    More than `most_bars` steps are averaged in bins.
    """
    xs = sorted({x for _, points in stacks.values() for x, _ in points}) or [0.0]
    bins = _bin(xs, most_bars)
    means = {name: bins.mean(points) for name, (_, points) in stacks.items()}
    top = y_max or max(sum(each[i] for each in means.values()) for i in bins.members) * 1.05 or 1.0
    y_ticks = ticks(0.0, top, 4)
    left = 14 + GLYPH * max(len(y_form(value)) for value in y_ticks)
    frame = Frame(left, 24, WIDTH - 10, height - 44, (0, max(bins.members) + 1), (0, top))
    parts = [text(4, 12, y_label), *_y_axis(frame, y_ticks, y_form)]

    wide = 0.84 * (frame.x(1) - frame.x(0))
    floor = dict.fromkeys(bins.members, 0.0)
    for name, (css, _) in stacks.items():
        for i, value in means[name].items():
            low, floor[i] = floor[i], floor[i] + value
            if value > 0:
                tip = escape(f"{name}, {x_label} {bins.name(i)}: {y_form(value)}")
                x, y, tall = frame.x(i + 0.5) - wide / 2, frame.y(floor[i]), frame.y(low) - frame.y(floor[i])
                box = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.2f}"'
                parts.append(f'<rect {box} class="bar {css}"><title>{tip}</title></rect>')

    for x in whole_ticks(xs[0], xs[-1]):
        parts.append(text(frame.x(bins.place(x)), frame.bottom + 17, f"{x:g}", anchor="middle"))
    parts.append(text((frame.left + frame.right) / 2, frame.bottom + 34, x_label, anchor="middle"))
    legend, rows = _legend([(name, css) for name, (css, _) in stacks.items()], height + 12)
    return figure(title, description, height + 8 + 20 * rows, [*parts, *legend])


def _legend(entries: Sequence[tuple[str, str]], top: float) -> tuple[list[str], int]:
    """Swatches with names in rows that fit the width; returns them and the number of rows."""
    parts = []
    x, row = 14.0, 0
    for name, css in entries:
        need = 15 + GLYPH * len(name) + 22
        if x + need > WIDTH and x > 14.0:
            x, row = 14.0, row + 1
        y = top + row * 20
        parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" class="bar {css}"/>')
        parts.append(text(x + 15, y, name))
        x += need
    return parts, row + 1
