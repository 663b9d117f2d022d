"""A bank over REST: what the memory service takes. What it answers is in `bank`.

Invariants: a text is a note's whole text and no longer than a note may be; what changes something that exists names
what was seen of it (`IfMatch`).
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from fastapi import Header
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from pmd.services.common.bank import Action, ItemId, ItemRef, Kind, Number, ProposalStatus, Status
from pmd.services.common.options import MAX_NOTE_CHARS
from pmd.services.common.strict import Strict
from pmd.services.common.wire import Level, Slug

# ------------------------------------------------------------ who asks, and what they saw

_IF_MATCH = Header(
    alias="If-Match",
    max_length=500,
    pattern=r'^ *(\*|"\d{1,15}"( *, *"\d{1,15}")*) *$',
    description="ETag of what was seen: an item's version or the bank's `seq`; \"*\" for whatever is there.",
)
IfMatch = Annotated[str, _IF_MATCH]
"""What a change of something that exists needs; the shell answers 428 without."""
IfMatchOrNone = Annotated[str | None, _IF_MATCH]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same request again gets the same answer and changes nothing.",
    ),
]
Actor = Annotated[
    str | None,
    Header(
        alias="X-PMD-Actor", pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$", description="Who asks, for the history."
    ),
]

# ------------------------------------------------------------ bodies

JSON_LINES = {"application/x-ndjson": {"schema": {"type": "string", "description": "JSON lines."}}}
"""An export, or an import, as the documents tell of it: it is no one value."""


def _says_something(text: str) -> str:
    if not any(unicodedata.category(char)[0] in "LNPS" for char in text):
        raise ValueError("nothing in it can be seen: a note says something")
    return text


Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NOTE_CHARS, pattern=r"^[^\x00]*$"),
    AfterValidator(_says_something),
]
"""A note. Postgres can't store NUL; spaces of no width alone say nothing."""
Topic = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]

SnapshotName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]
"""Begins with a letter, so that none is taken for a number."""
Moment = Number | SnapshotName
"""A `seq` of the bank, or the name of a snapshot."""


class NewItem(Strict):
    """A note by hand."""

    level: Literal["insight", "behavior"]
    kind: Literal["strategy", "lesson", "behavior"] | None = None
    """Of an insight: strategy or lesson."""
    problem_id: Slug | None = None
    """Of an insight: a problem that the bank knows."""
    topic: Topic = ""
    """Of a behavior: the term that makes a problem its business; empty: found by similarity."""
    text: Text
    pinned: bool = False


class Edit(Strict):
    """What to change of a note; what is left out stays."""

    text: Text | None = None
    kind: Literal["strategy", "lesson"] | None = None
    also: Annotated[list[ItemRef], Field(max_length=1000)] = []
    """Other notes that are changed alike, at the versions that were seen: the same thought at other problems, as
    `same_as` lists it. All of them or none."""

    @model_validator(mode="after")
    def _changes_something(self) -> Edit:
        if self.text is None and self.kind is None:
            raise ValueError("says neither text nor kind: there is nothing to change")
        return self


class Merge(Strict):
    """Notes that become one. They are superseded, and the new one says where it comes from.

    Insights of different problems become a behavior, which these problems are shown like an insight of their own.
    """

    items: Annotated[list[ItemRef], Field(min_length=2, max_length=100)]
    text: Text
    topic: Topic = ""
    """Of a behavior that insights become: the term that makes other problems its business too; empty: found by
    similarity."""


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


ACTS: dict[Action, str] = {
    "pin": "Machines leave it as it is.",
    "unpin": "Give it back to the machines, edited or not.",
    "ban": "Its text is never shown again, whoever writes it.",
    "restore": "Active again, and a person stands behind it.",
}
"""What each of them does, for the documents."""


class _What(Strict):
    level: Level | None = None
    """Only this level."""
    kind: Kind | None = None
    problem_id: Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")] | None = None
    protected: bool | None = None
    """Pinned or edited by a person."""
    q: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    """Beginnings of words."""


class Where(_What):
    """Items by what they are; what is left out is any."""

    status: Status | None = None


class Bulk(Strict):
    """One action on many items. A dry run takes `where` and answers with `items`; the real call takes those."""

    action: Action
    where: Where | None = None
    items: Annotated[list[ItemRef], Field(max_length=5000)] | None = None
    dry_run: bool = True
    reason: Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")] = ""


class Rollback(Strict):
    """Bring every item back to what it was at `seq`, as new versions."""

    seq: Moment
    """A number, or the name of a snapshot."""
    dry_run: bool = True


class Undo(Strict):
    """Undo an act of a person. A dry run names the last act of who asks; the real call takes its `seq`."""

    seq: Number | None = None
    """The act, as the audit log numbers it; None: the last one that is not undone, of a dry run only."""
    dry_run: bool = True


class NewSnapshot(Strict):
    """A name for a `seq`; the bank is not copied."""

    name: SnapshotName
    seq: Number | None = None
    """None: the bank as it is."""
    note: Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")] = ""
    """What it is kept for."""


# ------------------------------------------------------------ queries

Mode = Literal["hybrid", "text", "vector"]
"""vector: by meaning (cosine). text: by words (BM25). hybrid: both."""

Sort = Literal["newest", "oldest", "text"]
"""newest and oldest go by the change, not by the step."""

Question = Annotated[str, Field(min_length=1, max_length=20_000)]

Cursor = Annotated[str, Field(max_length=20_000)]

MAX_FOUND = 100
"""Most items that a search answers for one question."""


class ItemQuery(_What):
    """Which items to list."""

    status: Status | Literal["any"] = "active"
    same_as: ItemId | None = None
    """Only notes that say what this one says, itself included: the thought wherever it stands."""
    sort: Sort = "newest"
    """`newest` and `oldest` go by the change, not by the step."""
    after: Cursor = ""
    """`next` of the page before."""
    limit: int = Field(default=50, ge=1, le=500)


class DiffQuery(Strict):
    """Which versions to compare."""

    before: int | None = Field(default=None, ge=1, le=2**31)
    """A version; the last but one if missing."""
    after: int | None = Field(default=None, ge=1, le=2**31)
    """A version; the newest if missing."""


class ProposalQuery(Strict):
    """Which proposals to list."""

    status: ProposalStatus | Literal["any"] = "open"
    after: Annotated[str, Field(pattern=r"^(\d{1,15}\.[0-9a-f-]{1,64})?$")] = ""
    """`next` of the page before."""
    limit: int = Field(default=100, ge=1, le=500)


class AuditQuery(Strict):
    """Which part of the audit log to read."""

    after: Annotated[str, Field(pattern=r"^(\d{1,15}\.\d{1,9})?$")] = ""
    """`next` of the page before."""
    limit: int = Field(default=200, ge=1, le=1000)


class ExportQuery(Strict):
    """Which moment of the bank to export."""

    seq: Moment | None = None
    """The bank as it was then, by number or by the name of a snapshot; as it is, if missing."""


class ImportQuery(Strict):
    """How to import."""

    dry_run: bool = False
    """Check the file and say what it would add; nothing is written."""


class BankDiffQuery(Strict):
    """Which two moments of a bank to compare."""

    since: Moment
    """The earlier one, a number or the name of a snapshot."""
    until: Moment | None = None
    """The later one; the bank as it is, if missing."""
    level: Level | None = None
    """Insights and behaviors, if missing."""
    after: Annotated[str, Field(pattern=r"^([A-Za-z0-9-]{1,64})?$")] = ""
    """`next` of the page before."""
    limit: int = Field(default=100, ge=1, le=500)


class CompareQuery(Strict):
    """Which bank to compare with."""

    other: Slug
    """The other run."""
    level: Literal["insight", "behavior"] | None = None
    """Both, if missing."""
    after: Cursor = ""
    """`next` of the page before."""
    limit: int = Field(default=100, ge=1, le=500)


class WhyQuery(Strict):
    """Which contexts to look at."""

    step: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """The newest step that rendered contexts, if missing."""
    problem_id: Slug | None = None
    """Only this problem; all of the step, if missing."""


class ReviewQuery(Strict):
    """Which notes to review, and in which order."""

    sort: Literal["worst", "best", "unsure"] = "worst"
    """By the belief that a note raises the reward: lowest first, highest first, or nearest to 1/2 first."""
    level: Literal["insight", "behavior"] | None = None
    status: Status | Literal["any"] = "active"
    min_trials: int = Field(default=1, ge=1, le=10**6)
    """Contexts with a known reward, shown or held out, that a note needs to be listed."""
    after: Cursor = ""
    """`next` of the page before."""
    limit: int = Field(default=50, ge=1, le=200)


class _How(Strict):
    level: Level = "insight"
    mode: Mode = "hybrid"
    """vector: by meaning (cosine). text: by words (BM25). hybrid: both."""
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    """hybrid: weight of meaning against words, 0.5 when absent."""
    limit: int = Field(default=10, ge=1, le=MAX_FOUND)
    """Most items for each question."""


class SearchQuery(_How):
    """One question to one level of a bank."""

    q: Question
    """What to look for."""


class SearchRequest(_How):
    """A batch of questions to one level of a bank."""

    queries: list[Question] = Field(min_length=1, max_length=256)
    """Texts to look for; the first 2,000 characters of each count."""
