"""Two runs of one recipe and seed that differ in their index: do their teacher contexts show the same items?

    python -m bench.same_items var/runs/RUN var/runs/OTHER

Compares every context that both runs rendered: level, text, score, credibility and reason of each item, in order (ids
depend on the bank). Ends with 1 when a context differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

COMPARED = ("level", "text", "score", "credibility", "reason")


def contexts(run: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By step and rollout, the items that its context shows."""
    found = {}
    for artifact in sorted(run.glob("steps/*/retrieve.*.parquet")):
        for row in pq.read_table(artifact, columns=["prompt_id", "items"]).to_pylist():
            found[artifact.parent.name, row["prompt_id"]] = [
                {key: item[key] for key in COMPARED} for item in json.loads(row["items"])
            ]
    return found


def differences(run: Path, other: Path) -> tuple[int, list[str]]:
    """How many contexts were compared, and a line for each that differs."""
    ours, theirs = contexts(run), contexts(other)
    lines = []
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            lines.append(f"step {key[0]}, {key[1]}: {_texts(ours.get(key))} | {_texts(theirs.get(key))}")
    return len(ours.keys() & theirs.keys()), lines


def _texts(items: list[dict[str, Any]] | None) -> str:
    return "no context" if items is None else "; ".join(f"{i['text']} ({i['score']})" for i in items) or "nothing"


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    given = parser.parse_args()
    compared, lines = differences(given.run, given.other)
    for line in lines:
        print(line)
    shown = sum(map(len, contexts(given.run).values()))
    print(f"{compared} contexts with {shown} items compared, {len(lines)} differ")
    sys.exit(1 if lines or not compared else 0)


if __name__ == "__main__":
    main()
