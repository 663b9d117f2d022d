"""What a method is: the answers that tell one from another.

Invariant: the plan and the requests of a run read these answers and never a method's name, so methods with the same
answers plan the same (Law 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pmd.services.common.options import Loss


@dataclass(frozen=True)
class Method:
    """What a run does with its attempts."""

    loss: Loss | None
    """The trainer's loss that reads the credit which is given to tokens; None: weights stay as they are."""
    memory: Literal["teacher", "student"] | None = None
    """Whose prompt shows the run's memory; None: nothing is remembered."""
    smallest_group: int = 1
    """Rollouts of a problem and step that credit needs to be told apart by."""
    evaluates_only: bool = False
    """There are no steps: the base is evaluated, and that is all."""

    @property
    def has_teacher(self) -> bool:
        """Whether credit comes from a teacher that reads a context."""
        return self.loss == "distill"

    @property
    def prompts_with_memory(self) -> bool:
        """Whether the student's own prompt shows memory, in evaluation too (Law 1)."""
        return self.memory == "student"
