"""Whatever the text points at exists: links of pages with their anchors, and pages and sections that code cites."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"\b((?:docs|examples|requirements)/[\w/.-]*\w)(?: (\d+(?:\.\d+)?))?")
"""A page below a folder that has pages, and the number of a section, as in `docs/method.md 2.1`."""
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@cache
def tracked() -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def pages() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


@cache
def headings(page: Path) -> tuple[str, ...]:
    return tuple(HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8"))))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(page))
    return {text.strip().replace(" ", "-") for text in plain}


def dead_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists():
            yield f"{page.relative_to(ROOT)}: no {target}"
        elif anchor and anchor not in anchors(there):
            yield f"{page.relative_to(ROOT)}: {name or 'this page'} has no section for #{anchor}"


def dead_citations(path: Path) -> Iterator[str]:
    for name, section in CITED.findall(path.read_text(encoding="utf-8")):
        there = ROOT / name
        if "." not in there.name:
            continue  # a folder that a command writes
        if not there.exists():
            yield f"{path.relative_to(ROOT)}: no {name}"
        elif section and not any(heading.startswith(f"{section} ") for heading in headings(there)):
            yield f"{path.relative_to(ROOT)}: {name} has no section {section}"


def test_every_link_of_every_page_leads_somewhere() -> None:
    assert [dead for page in pages() for dead in dead_links(page)] == []


def test_every_page_and_section_that_code_cites_exists() -> None:
    code = [p for p in tracked() if p.suffix in {".py", ".yaml", ".yml", ".toml"} or p.name == "Makefile"]
    assert [dead for path in (*code, *pages()) for dead in dead_citations(path)] == []


def test_the_sections_of_the_method_are_numbered_in_order() -> None:
    numbers = [re.match(r"\d+(?:\.\d+)?", h) for h in headings(ROOT / "docs" / "method.md")[1:]]
    assert all(numbers)
    found = [tuple(map(int, n.group().split("."))) for n in numbers if n]
    assert found == sorted(set(found))
