"""A run's inputs: what creation freezes, so that nothing outside the run's folder is read again."""

from __future__ import annotations

from pmd.services.common.strict import Strict
from pmd.services.common.wire import Ref, Weights


class StartBank(Strict):
    """The bank that a run begins with, frozen."""

    source: str
    """As the recipe names it."""
    file: Ref
    """The export as it is imported: its own problems under names that are none of this run's other problems."""
    sha256: str
    """Of the export as it was found."""
    origin: str
    """The run whose bank it is; empty where it does not say."""
    model: str | None
    """The model of that run, without a folder's path; None where it does not say."""
    seq: int | None
    """Of the bank when it was exported."""
    items: dict[str, int]
    """Active items by level."""
    problems: int
    renamed_problems: int
    """Problems that have another name here, as this run has another problem of theirs."""


class Parent(Strict):
    """The run that a run goes on from."""

    run: str
    step: int
    version: int
    """Policy version of it that is the base model here."""
    seq: int | None
    """Of its bank, with which the run begins; None where it begins with another one, or with none."""


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
    start: StartBank | None = None
    """The bank that the run begins with; None: an empty one."""
    parent: Parent | None = None
    """The run that it was forked from."""
