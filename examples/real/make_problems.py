"""Write the problem files of the benchmark, `examples/real/problems/<kind>-<seed>.jsonl`.

python -m pmd.examples.real.make_problems
"""

from __future__ import annotations

import json
from pathlib import Path

from pmd.examples.real.world import KINDS, Kind, problem_sets

WORLDS = 4
"""Seeds 0 to 3 of each kind are kept: 0 to choose a recipe on, the others to compare methods on."""
FOLDER = Path(__file__).parent / "problems"


def lines(kind: Kind, seed: int) -> str:
    """The problem file of one world, a problem a line."""
    return "".join(json.dumps(problem) + "\n" for split in problem_sets(kind, seed).values() for problem in split)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind in KINDS:
        for seed in range(WORLDS):
            (FOLDER / f"{kind}-{seed}.jsonl").write_text(lines(kind, seed), encoding="utf-8")
