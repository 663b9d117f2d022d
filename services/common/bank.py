"""A bank over REST: what the memory service answers. What it takes is in `curation`.

One contract: the memory service answers these values, the gateway passes them on under a run's address and documents
them, the command line reads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pmd.services.common.strict import Strict
from pmd.services.common.wire import Level, Message

Kind = Literal["attempt", "strategy", "lesson", "behavior"]

Status = Literal["active", "retired", "quarantined", "banned", "superseded"]
"""active: may be shown. retired: the machine dropped it. quarantined: kept aside by a guard. banned: a person never
wants to see this text again. superseded: a person merged or split it into other items."""

Action = Literal["pin", "unpin", "ban", "restore"]
"""pin: machines leave it as it is. unpin: give it back to them, edited or not. ban: its text is never shown again,
whoever writes it. restore: active again, and a person stands behind it."""

ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]

Number = Annotated[int, Field(ge=0, le=2**53)]
"""A version of an item, or a `seq` of a bank."""

ProposalStatus = Literal["open", "accepted", "rejected"]


class ItemView(Strict):
    """A memory item as people see it."""

    id: str
    level: Level
    kind: Kind
    text: str
    problem_id: str | None
    """None for behaviors, which belong to no single problem."""
    topic: str | None = None
    """The term that a behavior is about; empty: found by similarity."""
    status: Status
    pinned: bool = False
    edited: bool = False
    """A person wrote its text or brought it back; like a pin it makes machines propose instead of change."""
    version: int
    seq: int
    step: int
    """Training step that wrote or last confirmed it."""
    policy_version: int
    support: int | None = None
    """Problems that agree with a behavior."""
    successes: int | None = None
    """Passed attempts that follow it."""
    trials: int | None = None
    """Attempts that follow it."""
    sources: list[str] = []
    """Rollouts (insight) or insights (behavior) it was made from."""
    note: str | None = None
    """Why it is quarantined; feedback of a failed attempt."""


class ItemPage(Strict):
    """Items in the order that was asked for; pass `next` as `after` for the next page."""

    items: list[ItemView]
    next: str | None


class VersionView(Strict):
    """What an item was at one version."""

    version: int
    seq: int
    step: int
    actor: str
    """`person:<name>`, the policy version that wrote it, or the job."""
    kind: Kind
    status: Status
    pinned: bool
    edited: bool
    text: str
    facts: dict[str, Any]


class AnnotationView(Strict):
    """A person's remark."""

    seq: int
    at: float
    """Unix seconds."""
    actor: str
    text: str


class ItemDetail(Strict):
    """An item, all that it has been, and what people say of it."""

    item: ItemView
    history: list[VersionView]
    annotations: list[AnnotationView] = []


class Diff(Strict):
    """Two versions of an item compared."""

    before: VersionView
    after: VersionView
    text: str
    """Unified diff of the texts; empty when they are equal."""


class ItemRef(Strict):
    """An item at the version that was seen, or made."""

    id: ItemId
    version: Number


class RefusedItem(Strict):
    id: str
    why: str


class BulkResult(Strict):
    action: Action
    dry_run: bool
    items: list[ItemRef]
    """What was changed, at the versions that were made; of a dry run what would be, at the versions that were seen."""
    unchanged: int = 0
    """Items that were already as asked."""
    refused: list[RefusedItem] = []
    """Of a dry run: items that would make the real one a 409. They are not among `items`."""


class RollbackResult(Strict):
    dry_run: bool
    changed: int
    retired: int
    """Items that did not exist yet at that `seq`."""


class ProposalView(Strict):
    """A machine's proposal for an item that a person holds."""

    id: str
    item_id: str
    item_version: int
    """The version that it was made for."""
    action: Literal["replace", "retire"]
    text: str | None
    """What it would say (replace)."""
    reason: str
    step: int
    actor: str
    status: ProposalStatus
    seq: int
    decided_by: str | None
    facts: dict[str, Any]
    """Evidence for the proposal."""


class ProposalPage(Strict):
    """Newest first; pass `next` as `after` for the next page."""

    proposals: list[ProposalView]
    next: str | None = None


class AuditRow(Strict):
    """One change by a person, or all that one job changed."""

    seq: int
    n: int
    at: float
    """Unix seconds."""
    actor: str
    by_person: bool
    action: str
    item_id: str | None
    version: int | None
    detail: dict[str, Any]


class AuditPage(Strict):
    """Rows in order of (seq, n); pass `next` as `after` for what came later."""

    rows: list[AuditRow]
    next: str


class ImportResult(Strict):
    seq: int
    added: int
    known: int
    """Items that the bank holds already, and those whose text an active note says or a person has banned."""
    problems: int


class BankList(Strict):
    banks: dict[str, int]
    """`seq` by bank."""


class FoundItem(Strict):
    """A memory that was found."""

    id: str
    level: Level
    kind: Kind
    text: str
    problem_id: str | None
    """None for behaviors, which belong to no single problem."""
    version: int
    score: float
    """Fused score, relative to the other answers of the same question: 1 is the best that can be."""
    similarity: float | None
    """Cosine to the question; None for mode text, which embeds no question."""


class SearchAnswer(Strict):
    """What was found, in the order of the questions."""

    results: list[list[FoundItem]]
    seq: int
    """The bank's `seq` when it was searched."""
    index: str
    """The index that answered."""
    degraded: bool
    """The configured index is out of reach, and the embedded one answered in its place."""


class ShownItem(Strict):
    """An item in a teacher context."""

    id: str
    version: int
    level: Level
    text: str
    """As it was shown."""
    score: float
    """Similarity to the problem; 1 for what is about this very problem."""
    credibility: float
    """How far verdicts, or people, bear it out."""
    reason: str
    """Why it was chosen."""
    sources: list[str] = []
    """Rollouts (insight) or insights (behavior) it was made from, at that version."""


class LeftOut(Strict):
    """A note that was found for a context and not shown."""

    id: str
    version: int
    level: Level
    reason: str


class ContextView(Strict):
    """One teacher context, exactly."""

    rollout: str
    bank: str
    step: int
    problem_id: str
    seq: int
    """Of the bank when it was rendered."""
    job: str
    messages: list[Message]
    has_context: bool
    items: list[ShownItem]
    left_out: list[LeftOut] = []
    """Notes without room, and those that a person stands behind which another cause kept out."""
    demonstration: str | None
    """Rollout id of the verified sibling that was shown."""
    feedback: bool
    """Whether the rollout's own feedback was shown."""


class LinkView(Strict):
    """One end of a link between what was made and what it was made from."""

    id: str
    """Of an item, or of a rollout."""
    how: str
    """How the one was made from the other: reflected, abstracted, merge, split."""
    version: int
    """First version of the made item that it holds for."""
    item: ItemView | None = None
    """None where the end is no item of the bank."""


class UseView(Strict):
    """Teacher contexts of one problem in one step that were to show an item."""

    step: int
    problem_id: str
    version: int
    shown: bool
    """False: chosen, and held out to learn what it is worth."""
    score: float
    credibility: float
    reward: float | None


class Provenance(Strict):
    """Where an item comes from and where it went."""

    item: ItemView
    made_from: list[LinkView]
    """Rollouts and items."""
    made: list[LinkView]
    """Items that were made from it."""
    uses: list[UseView]
    """Newest first, at most 200."""


class Utility(Strict):
    """What showing an item does to the reward."""

    shown: int
    """Problems, by step, whose reward is known and whose contexts showed it."""
    held_out: int
    """The same for contexts that it was held out of."""
    lift: float | None
    """In [-1, 1]; None while there is nothing to compare."""
    interval: tuple[float, float] | None
    """95 %."""
    belief: float
    """Probability that it raises the reward; 1/2 while nothing is known."""
