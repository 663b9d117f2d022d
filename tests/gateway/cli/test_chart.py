"""Curves in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pmd.gateway.cli.chart import BRAILLE, Chart, path
from pmd.gateway.cli.progress import Progress
from pmd.gateway.cli.watch import render
from tests.gateway.cli.synthetic import report


def drawn(chart: Chart, width: int = 60, encoding: str = "utf-8") -> list[str]:
    class Terminal(io.StringIO):
        pass

    Terminal.encoding = encoding  # type: ignore[assignment, misc]
    out = Terminal()
    Console(file=out, width=width, legacy_windows=False).print(chart)
    return out.getvalue().splitlines()


def heights(lines: list[str], height: int) -> list[int]:
    """The line of the highest sign of each column that has one, from above."""
    cells = [line[7:].ljust(60) for line in lines[:height]]
    return [
        next(i for i in range(height) if c[i] != " ") for c in zip(*cells, strict=False) if any(s != " " for s in c)
    ]


def test_a_curve_that_rises_rises_from_left_to_right() -> None:
    lines = drawn(Chart({"test": {0: 0.0, 10: 1.0}}, steps=10))
    rows = heights(lines, 8)
    assert (rows[0], rows[-1]) == (7, 0)
    assert rows == sorted(rows, reverse=True)
    assert (lines[0].split()[0], lines[7].split()[0], lines[8].split()) == ("100", "0", ["step", "0", "10"])
    assert "test 100" in lines[9]


def test_what_is_not_there_yet_is_not_drawn() -> None:
    lines = drawn(Chart({"test": {0: 0.5, 5: 0.5}}, steps=10), width=67)
    assert 29 <= max(len(line.rstrip()) for line in lines[:8]) - 7 <= 31, "half of the steps, half of the width"


def test_a_lead_below_zero_has_its_place_below_the_axis() -> None:
    lines = drawn(Chart({"lead": {0: -0.1, 10: -0.1}}, steps=10, notes={"lead": "-10 points"}))
    assert lines[7].split()[0] == "-25"
    assert set(heights(lines, 8)) == {7 - 1}
    assert "lead -10 points" in lines[9]


@pytest.mark.parametrize("width", [9, 20, 500])
def test_it_fits_every_terminal(width: int) -> None:
    assert all(len(line) <= width for line in drawn(Chart({"a": {0: 0.1, 3: 0.9}}, steps=3), width=width)[:9])


def test_a_terminal_that_knows_ascii_only_gets_stars() -> None:
    lines = drawn(Chart({"test": {0: 0.0, 10: 1.0}}, steps=10), encoding="ascii")
    assert "*" in lines[0]
    assert not any(ord(sign) >= BRAILLE for line in lines[:8] for sign in line)


def test_dots_lie_on_straight_lines_between_what_is_known() -> None:
    assert list(path({0: 0.0, 4: 1.0}, 4, 5)) == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert list(path({}, 4, 5)) == []
    assert list(path({0: 0.5}, 0, 5)) == [(0, 0.5)], "a run that only evaluates"


def test_watching_shows_curves_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(steps=12)
    progress.record([step.model_dump(mode="json") for step in report(steps=12).steps])
    assert sorted(progress.leads) == list(range(1, 13))

    def shown(room: int) -> str:
        console = Console(width=100)
        with console.capture() as captured:
            console.print(render({"name": "pocket", "method": "pmd"}, progress, room))
        return captured.get()

    assert any(ord(sign) > BRAILLE for sign in shown(30))
    assert "teacher's lead" in shown(30)
    assert not any(ord(sign) > BRAILLE for sign in shown(16)), "a low terminal keeps the facts"
