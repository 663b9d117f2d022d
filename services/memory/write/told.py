"""What became of a model's answers: counted, with a few examples, for the job's result."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pmd.services.common.requests import MemoryCounts, WriteResult
from pmd.services.memory.write.found import Dropped
from pmd.services.memory.write.generator import Answers

BANNED = "banned by a person"
LEAKS = "gives the answer away"
UNPROVEN = "no attempt bears it out"
UNSUPPORTED = "too few problems agree"
UNUSABLE = "unusable"

EXAMPLES = 3
"""Of each reason."""
EXAMPLE_CHARS = 300


class Told:
    """Counts of one job."""

    def __init__(self, said: Answers[Any]) -> None:
        """Begins with the answers that say nothing."""
        self._said = said
        self._dropped: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {UNUSABLE: said.unusable[:EXAMPLES]}

    def drop(self, *dropped: Dropped) -> None:
        """Count what is not kept."""
        for why, text in dropped:
            self._dropped[why] += 1
            examples = self._examples.setdefault(why, [])
            if len(examples) < EXAMPLES:
                examples.append(text)

    def result(self, counts: MemoryCounts) -> WriteResult:
        """The job's result beside what the bank holds now."""
        said = self._said
        return WriteResult(
            **counts.model_dump(),
            asked=said.asked,
            refused=said.refused,
            unusable=len(said.unusable),
            dropped=dict(sorted(self._dropped.items())),
            examples=[f"{why}: {text[:EXAMPLE_CHARS]}" for why, texts in self._examples.items() for text in texts],
            unconstrained=said.unconstrained,
        )
