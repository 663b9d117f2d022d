"""The review queue over REST: notes in the order of what they did to the reward."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query

from pmd.services.common.app import known_query
from pmd.services.common.bank import ReviewPage, ReviewRow, Utility
from pmd.services.common.curation import ReviewQuery
from pmd.services.memory.api.deps import REFUSALS, BankId, InPath, TheLedger
from pmd.services.memory.api.views import item_view
from pmd.services.memory.curate import changes
from pmd.services.memory.curate.snapshots import NOTES
from pmd.services.memory.evidence.effect import Arm, Effect, effect, gather
from pmd.services.memory.ledger import reads
from pmd.services.memory.ledger.cursor import BadCursor, cursor, place
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import ITEMS, PROPOSALS

routes = APIRouter(tags=["explain"], dependencies=[Depends(known_query)])


@routes.get("/v1/banks/{bank}/items/{item_id}/utility", responses=REFUSALS)
def item_utility(bank: BankId, item_id: InPath, ledger: TheLedger) -> Utility:
    """Reward with an item less reward when chance held it out (`memory.quality.hold_out`), with an interval; and the
    reward of attempts that read no memory."""
    with ledger.read() as db:
        if not load(db, bank, [item_id]):
            raise changes.Missing(f"no item {item_id!r} in bank {bank!r}")
        return _utility(effect(gather(reads.trials(db, bank, [item_id])).get(item_id, {})))


def _utility(found: Effect) -> Utility:
    shown, held_out = found.outcomes.shown, found.outcomes.held_out
    measured = bool(shown.trials and held_out.trials)
    return Utility(
        shown=int(shown.trials),
        held_out=int(held_out.trials),
        lift=found.mean if measured else None,
        interval=found.interval if measured else None,
        belief=found.belief,
        reward=_rate(shown),
        reward_held_out=_rate(held_out),
        reward_without_memory=_rate(found.outcomes.base),
    )


def _rate(arm: Arm) -> float | None:
    return arm.rewards / arm.trials if arm.trials else None


@routes.get("/v1/banks/{bank}/review", responses=REFUSALS)
def review(bank: BankId, asked: Annotated[ReviewQuery, Query()], ledger: TheLedger) -> ReviewPage:
    """Notes by their measured effect, those that seem to do harm first, each with its open proposals."""
    levels = NOTES if asked.level is None else (asked.level,)
    chosen = sa.select(ITEMS.c.id).where(ITEMS.c.bank == bank, ITEMS.c.level.in_(levels))
    if asked.status != "any":
        chosen = chosen.where(ITEMS.c.status == asked.status)
    behind = place(asked.after, str, float, float, str) if asked.after else ()
    if behind and behind[0] != asked.sort:
        raise BadCursor(f"after: {asked.after!r} is a cursor of sort={behind[0]}; keep `sort` while you page")
    with ledger.read() as db:
        reads.known_seq(db, bank)
        ids = list(db.scalars(chosen))
        effects = {item_id: effect(found) for item_id, found in gather(reads.trials(db, bank, ids)).items()}
        measured = {item_id: found for item_id, found in effects.items() if _trials(found) >= asked.min_trials}
        ranked = sorted(_place(item_id, found, asked.sort) for item_id, found in measured.items())
        further = [at for at in ranked if at > behind]
        page = [at[-1] for at in further[: asked.limit]]
        items = load(db, bank, page)
        asking: dict[str, list[str]] = defaultdict(list)
        here = sa.and_(PROPOSALS.c.bank == bank, PROPOSALS.c.status == "open", PROPOSALS.c.item_id.in_(page))
        for row in db.execute(sa.select(PROPOSALS.c.id, PROPOSALS.c.item_id).where(here).order_by(PROPOSALS.c.id)):
            asking[row.item_id].append(row.id)
    rows = [
        ReviewRow(item=item_view(items[i]), utility=_utility(measured[i]), proposals=asking.get(i, [])) for i in page
    ]
    following = cursor(*further[asked.limit - 1]) if len(further) > asked.limit else None
    return ReviewPage(rows=rows, unmeasured=len(ids) - len(measured), next=following)


def _trials(found: Effect) -> float:
    return found.outcomes.shown.trials + found.outcomes.held_out.trials


def _place(item_id: str, found: Effect, sort: str) -> tuple[str, float, float, str]:
    """Where a note stands in the queue; of equals the one that was tried more comes first."""
    belief = {"worst": found.belief, "best": -found.belief, "unsure": abs(found.belief - 0.5)}[sort]
    return sort, belief, -float(_trials(found)), item_id
