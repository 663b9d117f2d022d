"""What the leak guard catches, and whom it blames: rates by class of note on the sets of tests/memory/leak.

    python -m bench.leak                      # seconds; prints the table of docs/leak.md

A line of a set is a problem with its verifier spec, a program that passes where it asks for one, and notes, each with
its class and whether it gives the answer away. `heldout` was written before the guard was; `development` is what it was
made by.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pmd.services.common.wire import Message, Problem
from pmd.services.memory.leak.guard import leak

SETS = Path(__file__).resolve().parent.parent / "tests" / "memory" / "leak"
NAMES = ("heldout", "development")
ROW = "| {} | {} | {} |"


class Counted(NamedTuple):
    """Notes of a class that the guard stopped, and all of them."""

    stopped: int
    notes: int

    def __str__(self) -> str:
        return f"{self.stopped} of {self.notes}"


def counts(name: str) -> dict[tuple[bool, str], Counted]:
    """By whether notes of a set leak, and by class; the class `all` is all of them."""
    stopped: Counter[tuple[bool, str]] = Counter()
    notes: Counter[tuple[bool, str]] = Counter()
    for line in (SETS / f"{name}.jsonl").read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        asked = [Message(role="user", content=row["question"])]
        problem = Problem(id=row["id"], messages=asked, verifier=row["verifier"])
        passed = [f"```python\n{row['program']}```"] if "program" in row else []
        for note in row["notes"]:
            found = leak(note["text"], problem, passed) is not None
            for key in ((note["leaks"], note["class"]), (note["leaks"], "all")):
                notes[key] += 1
                stopped[key] += found
    return {key: Counted(stopped[key], notes[key]) for key in sorted(notes, key=lambda k: (not k[0], k[1]))}


def table() -> str:
    """The rates of all sets as Markdown."""
    found = {name: counts(name) for name in NAMES}
    keys = sorted({key for of_set in found.values() for key in of_set}, key=lambda k: (not k[0], k[1] != "all", k[1]))
    lines = ["| notes | " + " | ".join(NAMES) + " |", "|---|---|---|"]
    for leaks, kind in keys:
        cells = [str(of_set.get((leaks, kind), "")) for of_set in (found[name] for name in NAMES)]
        lines.append(ROW.format(f"{'leak' if leaks else 'honest'}: {kind}", *cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
