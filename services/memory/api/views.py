"""Rows of the ledger as the values that the REST interface answers. Pure functions."""

from __future__ import annotations

import json
from typing import Any

from pmd.services.common.bank import ItemView, Origin, ProposalView, VersionView
from pmd.services.memory.ledger import Item
from pmd.services.memory.ledger.items import ORIGIN


def item_view(item: Item) -> ItemView:
    """An item as people see it."""
    facts = item.facts
    attempt = item.level == "experience"
    behavior = item.level == "behavior"
    return ItemView(
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
        origin=Origin(**facts[ORIGIN]) if ORIGIN in facts else None,
    )


def version_view(item: Item, actor: str) -> VersionView:
    """What an item was at the version that `actor` made."""
    given = {name: getattr(item, name) for name in VersionView.model_fields if name != "actor"}
    return VersionView(actor=actor, **given)


def proposal_view(row: Any) -> ProposalView:
    """A row of `PROPOSALS`."""
    given = {name: value for name, value in row._mapping.items() if name not in {"bank", "facts"}}
    return ProposalView(**given, facts=json.loads(row.facts))
