"""What a person asks to change of a bank: bodies of the curation routes.

Invariant: a text is a note's whole text and no longer than a note may be.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from pmd.services.common.options import MAX_NOTE_CHARS
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Level, Slug
from pmd.services.memory.ledger import Kind, Status

Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NOTE_CHARS, pattern=r"^[^\x00]*$")
]
"""A note. Postgres can't store NUL."""


ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


Number = Annotated[int, Field(ge=0, le=2**53)]


class ItemRef(Strict):
    """An item at the version that was seen."""

    id: ItemId
    version: Number


class NewItem(Strict):
    """A note by hand."""

    level: Literal["insight", "behavior"]
    kind: Literal["strategy", "lesson", "behavior"] | None = None
    """Of an insight: strategy or lesson."""
    problem_id: Slug | None = None
    """Of an insight: a problem that the bank knows."""
    topic: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] = ""
    """Of a behavior: the term that makes a problem its business; empty: found by similarity."""
    text: Text
    pinned: bool = False


class Edit(Strict):
    """What to change of a note; what is left out stays."""

    text: Text | None = None
    kind: Literal["strategy", "lesson"] | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Edit:
        if self.text is None and self.kind is None:
            raise ValueError("says neither text nor kind: there is nothing to change")
        return self


class Merge(Strict):
    """Notes that become one. They are superseded, and the new one says where it comes from."""

    items: Annotated[list[ItemRef], Field(min_length=2, max_length=100)]
    text: Text


class Split(Strict):
    """The notes that one note becomes."""

    texts: Annotated[list[Text], Field(min_length=2, max_length=20)]


class Revert(Strict):
    """Which version's wording to bring back."""

    version: Number


class Annotation(Strict):
    text: Text


class Reason(Strict):
    """Why, for the audit log."""

    reason: Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")] = ""


class Where(Strict):
    """Items by what they are; what is left out is any."""

    level: Level | None = None
    kind: Kind | None = None
    status: Status | None = None
    problem_id: Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")] | None = None
    held: bool | None = None
    q: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] | None = None


Action = Literal["pin", "unpin", "ban", "restore"]


class Bulk(Strict):
    """One action on many items. A dry run takes `where` and answers with `items`; the real call takes those."""

    action: Action
    where: Where | None = None
    items: Annotated[list[ItemRef], Field(max_length=5000)] | None = None
    dry_run: bool = True
    reason: Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")] = ""


class Rollback(Strict):
    """Bring every item back to what it was at `seq`, as new versions."""

    seq: Number
    dry_run: bool = True
