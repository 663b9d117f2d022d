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

Cause = Literal["not_believed", "contradicted", "leaks", "banned", "held_out", "no_room", "beyond_k", "render"]
"""Why a note that was found for a problem is not shown. not_believed: its evidence is too weak. contradicted: a more
credible note says otherwise. leaks: it gives the answer away. banned: a person banned what it says. held_out: chance
left it out, to learn what it is worth. no_room: `context.max_chars`. beyond_k: `retrieval.k`. render: no notes at all
are shown."""

ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]

Number = Annotated[int, Field(ge=0, le=2**53)]
"""A version of an item, or a `seq` of a bank."""

ProposalStatus = Literal["open", "accepted", "rejected"]


class Origin(Strict):
    """Where an imported memory was written."""

    run: str
    model: str | None = None
    """The model of that run, as its recipe named it, without a folder's path; None where the export does not say."""
    policy_version: int
    id: str
    """Its id in the bank of that run."""


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
    origin: Origin | None = None
    """Of an imported memory: the run that wrote it first."""


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


class UndoResult(Strict):
    """What undoing an act changes."""

    dry_run: bool
    seq: int
    """The act that is undone."""
    actor: str
    """Who did it."""
    action: str
    items: list[ItemRef]
    """Memories that were changed back, at the versions that were made; of a dry run what would be, at the versions that
    were seen. What the act had added is retired."""
    reopened: list[str] = []
    """Proposals that are open again."""


class SnapshotView(Strict):
    """A name for a `seq` of a bank."""

    name: str
    seq: int
    at: float
    """Unix seconds; when it was named."""
    actor: str
    note: str


class SnapshotList(Strict):
    """Newest `seq` first."""

    snapshots: list[SnapshotView]


class ChangedItem(Strict):
    """A memory that is not the same at two moments."""

    change: Literal["added", "gone", "changed"]
    """added: active since. gone: not active any more. changed: another text, kind, pin or standing."""
    before: ItemView | None
    """None: it did not exist."""
    after: ItemView


class BankDiff(Strict):
    """What changed in a bank between two moments; pass `next` as `after` for the next page."""

    since: int
    """The `seq` of the earlier one."""
    until: int
    items: list[ChangedItem]
    next: str | None


class OneSided(Strict):
    """A thought that one of two banks holds to be true and the other does not."""

    here: bool
    """Whether it is active in the bank that was asked; else in the other."""
    item: ItemView
    """As it stands in the bank where it is active."""
    elsewhere: Status | None
    """How the same thought stands in the bank where it is not active; None: it was never thought there."""


class BankComparison(Strict):
    """The active notes of two banks, compared by what they say about what; pass `next` as `after` for the next page."""

    bank: str
    other: str
    common: int
    """Thoughts that both hold."""
    only_here: int
    only_there: int
    items: list[OneSided]
    next: str | None


class ImportResult(Strict):
    seq: int
    """Of a dry run: that of the bank as it is."""
    dry_run: bool = False
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
    cause: Cause | None = None
    """None in records older than this field."""


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
    """Notes that were found and are not shown, each with the reason. Older records have only those without room and
    those that a person stands behind."""
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


class WhyHere(Strict):
    """Whether the contexts of one problem in one step show a note."""

    problem_id: str
    shown: bool
    cause: Cause | None
    """None: it is shown, or what kept it out is not recorded."""
    reason: str
    contexts: int
    """Contexts of the problem in that step."""


class Why(Strict):
    """Why a note is shown, or not, in the contexts of a step."""

    id: str
    step: int
    seq: int
    """Of the bank when they were rendered."""
    status: Status | None
    """Of the note then; None: it did not exist yet."""
    version: int | None
    """Of the note then."""
    problems: list[WhyHere]
    """The problems that it was found for, and the one that was asked about."""
    others: int
    """Problems of the step that it was not found for."""
    reason: str
    """Why it was not found for them; empty when there is none."""


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
    reward: float | None = None
    """Mean reward where it was shown."""
    reward_held_out: float | None = None
    """Mean reward where it was held out."""
    reward_without_memory: float | None = None
    """Mean reward of attempts at the same problems in the same steps that read no memory."""


class ReviewRow(Strict):
    """A note with what is known of its worth."""

    item: ItemView
    utility: Utility
    proposals: list[str]
    """Ids of the machine's open proposals for it."""


class ReviewPage(Strict):
    """Notes in the order of their measured effect; pass `next` as `after` for the next page."""

    rows: list[ReviewRow]
    unmeasured: int
    """Notes that match and are left out because no reward followed a context that was to show them."""
    next: str | None
