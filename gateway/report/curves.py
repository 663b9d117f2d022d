"""Learning curves of several variants in one picture that stands alone, for documents."""

from __future__ import annotations

from collections.abc import Mapping

from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report.svg import PLOT_STYLE, Series, line_chart

COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7")
DASHES = ("solid", "dashed", "dotted")


def curve_chart(title: str, curves: Mapping[str, list[tuple[int, float]]]) -> str:
    """An SVG file: accuracy over steps, one line per variant, labelled at its end, in light and dark.

    A variant that was evaluated once does not change: its line is level. A method looks the same in every picture.
    """
    names = list(dict.fromkeys([*METHODS, *curves]))
    styles = {
        name: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i, name in enumerate(names)
    }
    end = max((points[-1][0] for points in curves.values() if points), default=0)
    lines = [
        Series(
            name,
            points if len(points) != 1 else [*points, (end, points[0][1])],
            *styles[name],
        )
        for name, points in curves.items()
    ]
    described = "; ".join(f"{name} ends at {points[-1][1]:.0%}" for name, points in curves.items() if points)
    svg = line_chart(title, described, lines, height=320)
    head, close, rest = svg.partition(">")
    return f"{head}{close}<style>{PLOT_STYLE}</style>{rest}\n"
