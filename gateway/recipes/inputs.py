"""A run's inputs: what creation freezes, so that nothing outside the run's folder is read again."""

from __future__ import annotations

from pmd.services.common.strict import Strict
from pmd.services.common.wire import Ref, Weights


class Inputs(Strict):
    """What a run starts with, materialised when it is created."""

    root: str
    """URI of the run's folder."""
    model: str | None = None
    """What the base model is: its folder, or `owner/name@commit` of the hub."""
    base: Weights
    problems: Ref
    prompts: Ref
    train: tuple[str, ...]
    """Ids of the problems that are trained on."""
    evaluation: tuple[str, ...]
    """Ids of the problems of the splits that are evaluated."""
    source: str = ""
    """Data set of the hub that the problems are from, with its commit; empty for other sources."""
    bad_records: int = 0
    """Records of problem files that were left out because they are wrong."""
    bad_examples: tuple[str, ...] = ()
    """Where the first of them are, and what is wrong."""
    too_long: int = 0
    """Train problems that training would mask because their prompt is too long."""
    long_examples: tuple[str, ...] = ()
    """The first of them, with their lengths."""
    warnings: tuple[str, ...] = ()
    """What may go wrong with this model."""
