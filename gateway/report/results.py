"""The results of a comparison: a page, pictures and the first page's table, all from `pocket.csv` or `real.csv`.

    python -m pmd.gateway.report.results docs/results README.md

Invariants:
- Everything is a function of the measurements, and of `about-<study>.md` beside them, where people write what the
  measurements can't say. Nothing is run, so whoever has the file has the page.
- A sentence says no more than its table: who is above whom is decided by the paired interval, split by split, and what
  an interval leaves open is said to be open.
"""

from __future__ import annotations

import csv
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from pmd.gateway.recipes.methods import METHODS
from pmd.gateway.report.curves import curve_chart
from pmd.gateway.report.statistics import FEWEST, Curve, Difference, area, level, paired
from pmd.gateway.report.study import POCKET, STUDIES, Setting, Study
from pmd.gateway.views import ReportView

SPLITS = ("test", "unseen")
REFERENCE = "pmd"
"""The variant that ablations are compared with."""

COMPARISONS = (
    ("pmd", "base"),
    ("pmd", "grpo"),
    ("pmd", "sdpo"),
    ("pmd", "memory_agent"),
    ("grpo", "base"),
    ("sdpo", "base"),
    ("policy-frozen", "base"),
)
"""What the page has a sentence about, besides `pmd` against each ablation of enough worlds."""

MEASURES = {"At the end": lambda curve: curve[-1][1], "Over the whole curve": area}
START, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Measurement:
    """A line of `<study>.csv`: pass@k (pass@1 is avg@n) of one evaluation of one run on one split."""

    setting: str
    variant: str
    seed: int
    """Also the world's number: one run a world, so that world and seed are one source of variance."""
    step: int
    split: str
    k: int
    pass_at_k: float

    @property
    def run(self) -> tuple[str, str, int]:
        """The run that it was measured in."""
        return self.setting, self.variant, self.seed


def measurements(setting: Setting, variant: str, seed: int, report: ReportView) -> list[Measurement]:
    """All evaluations of one run."""
    return [
        Measurement(str(setting), variant, seed, step.step, split, k, score)
        for step in report.steps
        if step.evaluation
        for split in SPLITS
        for k, score in sorted(step.evaluation[split].pass_at.items())
    ]


def read(path: Path) -> list[Measurement]:
    """The measurements of a file; none when there is no file.

    Raises:
        ValueError: the columns are not those of a measurement.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    if names != [field.name for field in fields(Measurement)]:
        raise ValueError(f"{path}: the columns are {names}; name another folder, or remove the file")
    return [
        Measurement(setting, variant, int(seed), int(step), split, int(k), float(score))
        for setting, variant, seed, step, split, k, score in rows
    ]


def write(study: Study, folder: Path, measured: Iterable[Measurement], readme: Path | None = None) -> None:
    """The measurements, the page and its pictures in a folder, and the table of the first page where one is named."""
    ranks = {str(setting): rank for rank, setting in enumerate(study.settings)}
    variants: dict[str, int] = {name: rank for rank, name in enumerate(METHODS)}
    rows = sorted(
        measured,
        key=lambda m: (ranks[m.setting], variants.get(m.variant, len(METHODS)), *astuple(m)[1:]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{study.name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([[f.name for f in fields(Measurement)], *map(astuple, rows)])
    results = Results(study, rows)
    about = folder / f"about-{study.name}.md"
    text = page(results, about.read_text(encoding="utf-8") if about.exists() else "")
    (folder / f"{study.name}.md").write_text(text, encoding="utf-8")
    for name, picture in pictures(results).items():
        (folder / name).write_text(picture, encoding="utf-8")
    if readme is not None:
        readme.write_text(with_summary(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


class Results:
    """The learning curves of all runs, by setting, variant, split and world."""

    def __init__(self, study: Study, measured: Sequence[Measurement]) -> None:
        self.study = study
        self._curves: dict[tuple[str, str, str, int], dict[int, Curve]] = {}
        for m in sorted(measured, key=lambda m: m.step):
            by_world = self._curves.setdefault((m.setting, m.variant, m.split, m.k), {})
            by_world.setdefault(m.seed, []).append((m.step, m.pass_at_k))
        known = {(m.setting, m.variant) for m in measured}
        self.settings = [s for s in study.settings if any(setting == str(s) for setting, _ in known)]
        ablations = sorted({variant for _, variant in known} - set(METHODS))
        self.variants = [v for v in (*METHODS, *ablations) if any(variant == v for _, variant in known)]

    def curves(self, setting: Setting, variant: str, split: str, k: int = 1) -> Mapping[int, Curve]:
        """Pass@k at every evaluation, by world; empty where the variant did not run."""
        return self._curves.get((str(setting), variant, split, k), {})

    def difference(self, measure: str, setting: Setting, a: str, b: str, split: str) -> Difference | None:
        """A measure of `a` minus that of `b`, over the worlds in which both ran; None where there is none."""
        one, other = self.curves(setting, a, split), self.curves(setting, b, split)
        shared = sorted(set(one) & set(other))
        if not shared:
            return None
        value = MEASURES[measure]
        return paired([value(one[n]) for n in shared], [value(other[n]) for n in shared])

    def early(self, setting: Setting) -> int:
        """The first step after training began at which everything that was trained was evaluated; 0 without one."""
        curves = [c for v in self.variants for c in self.curves(setting, v, SPLITS[0]).values() if len(c) > 1]
        shared = set.intersection(*({step for step, _ in curve} for curve in curves)) if curves else set()
        return min(shared - {0}, default=0)

    def widest(self, setting: Setting) -> int:
        """The largest k of pass@k."""
        return max(k for (name, *_, k) in self._curves if name == str(setting))

    def places(self, measure: str, a: str, b: str) -> list[tuple[Setting, str, Difference]]:
        """All differences of two variants that enough worlds stand behind."""
        found = [(s, split, self.difference(measure, s, a, b, split)) for s in self.settings for split in SPLITS]
        return [(s, split, d) for s, split, d in found if d is not None and d.worlds >= FEWEST]

    def comparisons(self) -> list[tuple[str, str]]:
        """The pairs that are compared in enough worlds somewhere."""
        ablations = [(REFERENCE, v) for v in self.variants if v not in METHODS]
        return [pair for pair in (*COMPARISONS, *ablations) if self.places("At the end", *pair)]


def mean_curve(curves: Mapping[int, Curve]) -> Curve:
    """The mean over worlds, at the steps that all of them evaluated."""
    points = [dict(curve) for curve in curves.values()]
    steps = sorted(set.intersection(*(set(p) for p in points)))
    return [(step, sum(p[step] for p in points) / len(points)) for step in steps]


Place = tuple[Setting, str, Difference]
"""A setting and a split, with what two variants differ by there."""


def sentence(results: Results, measure: str, a: str, b: str) -> str:
    """What the paired intervals support about `a` and `b`, with every place where they leave it open."""
    places = results.places(measure, a, b)
    found: dict[int, list[Place]] = {sign: [p for p in places if p[-1].sign == sign] for sign in (1, -1, 0)}
    parts = [_decided(results, word, found[sign]) for sign, word in ((1, "above"), (-1, "below")) if found[sign]]
    if found[0]:
        listed = ", ".join(f"{setting} {split} ({d}, {d.above}/{d.worlds})" for setting, split, d in found[0])
        parts.append(f"open, as the interval includes zero, on {listed}")
    return f"{measure}: {'; '.join(parts)}." if parts else ""


def _decided(results: Results, word: str, places: Sequence[Place]) -> str:
    """Where one is above, or below: by how much, and in how many of the worlds."""
    sizes = sorted({f"{abs(d.mean):.2f}" for *_, d in places})
    sides = [(d.above if word == "above" else d.below, d.worlds) for *_, d in places]
    partly = sorted({f"{count} of {worlds}" for count, worlds in sides if count < worlds})
    in_worlds = f"not in every world ({', '.join(partly)})" if partly else "in each world"
    return f"{word} by {' to '.join(dict.fromkeys((sizes[0], sizes[-1])))} on {_where(results, places)}, {in_worlds}"


def _where(results: Results, places: Sequence[Place]) -> str:
    splits: dict[Setting, list[str]] = {}
    for setting, split, _ in places:
        splits.setdefault(setting, []).append(split)
    if len(places) == len(results.settings) * len(SPLITS):
        return "both splits of every setting"
    return ", ".join(f"{s} ({'both splits' if len(found) > 1 else found[0]})" for s, found in splits.items())


def page(results: Results, about: str) -> str:
    """The page of results: sentences, the differences that they rest on, levels by setting, and what people add."""
    study = results.study
    parts = [
        f"# {study.title}: results",
        "",
        _wrapped(
            f"`make results` writes this page from [{study.name}.csv]({study.name}.csv), which holds all evaluations, "
            f"and from [about-{study.name}.md](about-{study.name}.md); `make {study.target}` runs it all."
        ),
        "",
        _wrapped(
            "Memory-free accuracy (avg@n), but for `memory_agent`, whose prompt holds its memory also when it is "
            f"evaluated. {study.about} Levels are means over worlds "
            f"with the lowest and the highest world.{_about_differences(results)}"
        ),
        "",
    ]
    first_look = (
        f"Rows of fewer than {FEWEST} worlds are a first look: their differences have no interval and no sentence."
    )
    if compared := results.comparisons():
        said = (
            _wrapped(f"- **`{a}` against `{b}`.** " + " ".join(sentence(results, m, a, b) for m in MEASURES), "  ")
            for a, b in compared
        )
        parts += ["## What it says", "", *said, "", first_look, ""]
        for measure in MEASURES:
            parts += _differences(results, measure)
    else:
        parts += [first_look, ""]
    for setting in results.settings:
        parts += _levels(results, setting)
    return "\n".join([*parts, about]).rstrip() + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _about_differences(results: Results) -> str:
    """How differences were taken; nothing where there are none."""
    if not results.comparisons():
        return ""
    counts = {len(results.curves(s, v, SPLITS[0])) for s in results.settings for v in results.variants}
    least = ", ".join(f"{2 ** (1 - n):.3f} for {n}" for n in sorted(counts) if n >= FEWEST)
    return (
        " Differences are paired world by world, with 95 % intervals "
        "(Student's t, not corrected for their number); 4/5: positive in 4 of 5 worlds. There is one run a world: "
        "world and seed are one source of variance. The same sign in each of n worlds is p = 2^(1-n) by a sign "
        f"test: {least}."
    )


def _differences(results: Results, measure: str) -> list[str]:
    """The table of all paired differences of one measure: first minus second."""
    places = [(setting, split) for setting in results.settings for split in SPLITS]
    lines = [
        f"## Differences: {measure[0].lower()}{measure[1:]}",
        "",
        "First minus second, and in how many worlds it is positive; bold where the interval excludes zero.",
        "",
        "| | " + " | ".join(f"{setting}, {split}" for setting, split in places) + " |",
        "|---" * (len(places) + 1) + "|",
    ]
    for a, b in results.comparisons():
        cells = []
        for setting, split in places:
            d = results.difference(measure, setting, a, b, split)
            mark = "**" if d is not None and d.sign else ""
            cells.append("" if d is None else f"{mark}{d}{mark}, {d.above}/{d.worlds}")
        lines.append(f"| `{a}` - `{b}` | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _levels(results: Results, setting: Setting) -> list[str]:
    """The table of one setting and its pictures."""
    present = [v for v in results.variants if results.curves(setting, v, SPLITS[0])]
    early = results.early(setting)
    widest = results.widest(setting)
    lines = [
        f"## {setting.title}",
        "",
        f"Area is the mean height of the learning curve. pass@{widest} is of the last evaluation.",
        "",
        f"| variant | worlds | test, final | unseen, final | test, step {early} | unseen, step {early} | test, area "
        f"| unseen, area | test, pass@{widest} | unseen, pass@{widest} |",
        "|---" * 10 + "|",
    ]
    for variant in present:
        by_split = [list(results.curves(setting, variant, split).values()) for split in SPLITS]
        wide = [list(results.curves(setting, variant, split, widest).values()) for split in SPLITS]
        columns = [[curve[-1][1] for curve in curves] for curves in by_split]
        columns += [[dict(curve).get(early, curve[0][1]) for curve in curves] for curves in by_split]
        columns += [[area(curve) for curve in curves] for curves in by_split]
        columns += [[curve[-1][1] for curve in curves] for curves in wide]
        cells = [str(level(values)) if values else "" for values in columns]
        lines.append(f"| `{variant}` | {len(by_split[0])} | " + " | ".join(cells) + " |")
    lines.append("")
    for split in SPLITS:
        lines += [f"![Mean learning curves, {setting}, {split}]({_picture(results.study, setting, split)})", ""]
    return lines


def _picture(study: Study, setting: Setting, split: str) -> str:
    return f"{study.name}-{setting}-{split}.svg"


def pictures(results: Results) -> dict[str, str]:
    """Mean learning curves by file name; means over fewer worlds are of other worlds, and are not drawn beside them."""
    drawn = {}
    for setting in results.settings:
        for split in SPLITS:
            found = {v: results.curves(setting, v, split) for v in results.variants}
            most = max(map(len, found.values()))
            curves = {v: mean_curve(by_world) for v, by_world in found.items() if len(by_world) == most}
            drawn[_picture(results.study, setting, split)] = curve_chart(f"{setting}, {split}", curves)
    return drawn


def summary(results: Results) -> str:
    """What the first page says of the comparison: where the methods ended, and what PMD is above or below."""
    named = {"pmd": "PMD", "memory_agent": "memory agent", "grpo": "GRPO", "sdpo": "SDPO", "base": "before training"}
    shown = [v for v in reversed(list(METHODS)) if v in results.variants]
    lines = [
        "| test / unseen | " + " | ".join(named.get(v, v) for v in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for setting in results.settings:
        cells = []
        for variant in shown:
            curves = [results.curves(setting, variant, split).values() for split in SPLITS]
            ends = [f"{level([curve[-1][1] for curve in each]).mean:.2f}" for each in curves if each]
            worlds = len(curves[0])
            cells.append(f"{' / '.join(ends)} ({worlds})" if ends else "")
        lines.append(f"| {setting.title} | " + " | ".join(cells) + " |")
    said = [
        f"{named[REFERENCE]} against {named[other]}, paired by world. "
        + sentence(results, "At the end", REFERENCE, other)
        for other in shown
        if other != REFERENCE and results.places("At the end", REFERENCE, other)
    ]
    return "\n".join([*lines, "", *(_wrapped("- " + each, "  ") for each in said)])


def with_summary(readme: str, results: Results) -> str:
    """A first page with its block of results written anew.

    Raises:
        ValueError: the page has no such block.
    """
    if START not in readme or END not in readme:
        raise ValueError(f"the page has no block between '{START}' and '{END}'")
    before, _, rest = readme.partition(START)
    return f"{before}{START}\n{summary(results)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for each in STUDIES.values():
        if found := read(here / f"{each.name}.csv"):
            write(each, here, found, Path(sys.argv[2]) if len(sys.argv) > 2 and each is POCKET else None)
