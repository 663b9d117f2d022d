"""A step's view of a bank, and what of it the settings let be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pmd.services.common.options import ContextSettings
from pmd.services.common.wire import Level
from pmd.services.memory.evidence.bank import attempt, by_scope
from pmd.services.memory.evidence.credibility import Attempt
from pmd.services.memory.ledger import Item, StepView


class Showable:
    """A step's view of a bank, and what of it may be shown."""

    def __init__(self, view: StepView, asked: Sequence[str], step: int, settings: ContextSettings) -> None:
        self.view = view
        self.asked = asked
        self.settings = settings
        self.step = step
        self.experience = by_scope(view.active("experience", asked))
        self.behaviors: Sequence[Item] = []

    def take(self, behaviors: Iterable[Item]) -> None:
        """Let these behaviors be shown, as far as the settings do."""
        self.behaviors = self.shown("behavior", behaviors) if self.settings.k else []

    def shown(self, level: Level, items: Iterable[Item]) -> list[Item]:
        """Those that the settings let be shown."""
        if level not in self.settings.levels:
            return []
        return [i for i in items if i.step == self.step or not self.settings.transient]

    def attempts(self, items: Mapping[str, Sequence[Item]]) -> dict[str, list[Attempt]]:
        """Attempts as they are read, by problem."""
        return {pid: [attempt(item, self.settings.excerpt_chars) for item in at] for pid, at in items.items()}
