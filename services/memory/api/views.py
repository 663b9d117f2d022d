"""The bank as people see it: what the REST interface takes and gives."""

from __future__ import annotations

import json
from typing import Any, Literal

from pmd.services.common.strict import Strict
from pmd.services.common.wire import Level
from pmd.services.memory.curate.requests import Action, ItemRef
from pmd.services.memory.ledger import Item, Status


class ItemView(Strict):
    """A memory item as people see it."""

    id: str
    level: Level
    kind: str
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

    @classmethod
    def of(cls, item: Item) -> ItemView:
        facts = item.facts
        attempt = item.level == "experience"
        behavior = item.level == "behavior"
        return cls(
            id=item.id,
            level=item.level,
            kind=item.kind,
            text=item.text,
            problem_id=None if behavior else item.scope,
            topic=facts.get("topic", "") if behavior else None,
            status=item.status,
            pinned=item.pinned,
            edited=item.edited,
            version=item.version,
            seq=item.seq,
            step=item.step,
            policy_version=item.policy_version,
            support=facts.get("support"),
            successes=int(facts["passed"]) if attempt else facts.get("passes"),
            trials=1 if attempt else facts.get("trials"),
            sources=[facts["rollout_id"]] if attempt else facts.get("sources", []),
            note=facts.get("leak") or facts.get("harm") or facts.get("feedback") or None,
        )


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
    kind: str
    status: Status
    pinned: bool
    edited: bool
    text: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, item: Item, actor: str) -> VersionView:
        return cls(actor=actor, **{name: getattr(item, name) for name in cls.model_fields if name != "actor"})


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
    """A machine's wish for an item that a person holds."""

    id: str
    item_id: str
    item_version: int
    """The version that it was made for."""
    wish: Literal["replace", "retire"]
    text: str | None
    """What it would say (replace)."""
    reason: str
    step: int
    actor: str
    status: Literal["open", "accepted", "rejected"]
    seq: int
    decided_by: str | None
    facts: dict[str, Any]
    """Evidence for the wish."""

    @classmethod
    def of(cls, row: Any) -> ProposalView:
        given = dict(row._mapping)
        return cls(**{k: v for k, v in given.items() if k not in {"bank", "facts"}}, facts=json.loads(row.facts))


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
