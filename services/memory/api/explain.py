"""Law 8: what a teacher saw, and why. Also what an item was made from, and what used it.

The exact context is in the artifact that `retrieve` wrote; the ledger knows which artifact, and which items at which
version were in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Query

from pmd.services.common.app import known_query
from pmd.services.common.artifacts import ArtifactError, load_messages, read_table
from pmd.services.common.bank import ContextView, LeftOut, LinkView, Provenance, ShownItem, UseView
from pmd.services.common.wire import Ref, Slug
from pmd.services.memory.api.deps import REFUSALS, BankId, InPath, TheLedger
from pmd.services.memory.api.views import item_view
from pmd.services.memory.curate import changes
from pmd.services.memory.ledger import Item, Ledger
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.tables import CONTEXTS, LINKS, USES

MAX_USES = 200

routes = APIRouter(tags=["explain"], dependencies=[Depends(known_query)])


def context(ledger: Ledger, bank: str, rollout: str) -> ContextView:
    """The context of rollout "<step>:<rollout id>" (for `memory_agent`: "<step>:<problem id>").

    Raises:
        changes.Missing: when none is known, or its artifact is gone.
        changes.Invalid: when the id has no step.
    """
    step, _, name = rollout.partition(":")
    if not step.isdecimal() or len(step) > 9 or not name:
        raise changes.Invalid("rollout", 'is "<step>:<rollout id>", for example "12:p7#3"')
    with ledger.read() as db:
        jobs = written(db, bank, int(step))
    for job, rows in tables(jobs):
        found = next((row for row in rows if row["prompt_id"] == name), None)
        if found is not None:
            return ContextView(
                rollout=rollout,
                bank=bank,
                step=int(step),
                problem_id=found["problem_id"],
                seq=found["seq"],
                job=job.job,
                messages=load_messages(found["messages"]),
                has_context=found["has_context"],
                items=[ShownItem(**item) for item in json.loads(found["items"])],
                left_out=[LeftOut(**note) for note in json.loads(found.get("left_out") or "[]")],
                demonstration=found["demonstration"],
                feedback=found["feedback"],
            )
    raise changes.Missing(f"bank {bank!r} knows no context of rollout {rollout!r}")


def written(db: sa.Connection, bank: str, step: int) -> Sequence[sa.Row[Any]]:
    """The jobs that rendered contexts of a step, newest first."""
    query = sa.select(CONTEXTS).where(CONTEXTS.c.bank == bank, CONTEXTS.c.step == step)
    return db.execute(query.order_by(CONTEXTS.c.at.desc())).all()


def tables(jobs: Sequence[sa.Row[Any]]) -> Iterator[tuple[sa.Row[Any], list[dict[str, Any]]]]:
    """Jobs with the contexts that they rendered, but those whose artifact is gone.

    Raises:
        changes.Missing: at the end, when one of them was gone: what is looked for may have been in it.
    """
    lost: ArtifactError | None = None
    for job in jobs:
        try:
            rows = read_table(Ref.model_validate_json(job.artifact))
        except ArtifactError as error:
            lost = lost or error
            continue
        yield job, rows
    if lost is not None:
        raise changes.Missing(f"contexts of step {jobs[0].step} can't be read any more: {lost}") from lost


def provenance(ledger: Ledger, bank: str, item_id: str) -> Provenance:
    """Both directions of an item's provenance.

    Raises:
        changes.Missing: when there is no such item.
    """
    with ledger.read() as db:
        item = load(db, bank, [item_id]).get(item_id)
        if item is None:
            raise changes.Missing(f"no item {item_id!r} in bank {bank!r}")
        # Notes refer to an attempt by its rollout.
        name = item.facts["rollout_id"] if item.level == "experience" else item_id
        up = db.execute(sa.select(LINKS).where(LINKS.c.bank == bank, LINKS.c.child == item_id)).all()
        down = db.execute(sa.select(LINKS).where(LINKS.c.bank == bank, LINKS.c.parent == name)).all()
        near = load(db, bank, [link.parent for link in up] + [link.child for link in down])
        here = sa.and_(USES.c.bank == bank, USES.c.item_id == item_id)
        uses = db.execute(sa.select(USES).where(here).order_by(USES.c.step.desc(), USES.c.problem_id).limit(MAX_USES))
        shown = [UseView(**{k: row._mapping[k] for k in UseView.model_fields}) for row in uses]
    return Provenance(
        item=item_view(item),
        made_from=[_end(link.parent, link, near.get(link.parent)) for link in up],
        made=[_end(link.child, link, near.get(link.child)) for link in down],
        uses=shown,
    )


def _end(name: str, link: Any, item: Item | None) -> LinkView:
    """One end of a link; `version` is the first version of the child that it holds for."""
    return LinkView(id=name, how=link.how, version=link.version, item=item_view(item) if item else None)


@routes.get("/v1/contexts/{rollout}", responses=REFUSALS)
def explain_context(
    rollout: Annotated[str, Path(max_length=300, pattern=r"^[^\x00]*$", examples=["12:p7#3"])],
    bank: Annotated[Slug, Query(description="The bank, which has its run's id.")],
    ledger: TheLedger,
) -> ContextView:
    """The exact teacher context of a rollout `<step>:<rollout id>`: items, versions, why each was chosen."""
    return context(ledger, bank, rollout)


@routes.get("/v1/banks/{bank}/items/{item_id}/provenance", responses=REFUSALS)
def explain_item(bank: BankId, item_id: InPath, ledger: TheLedger) -> Provenance:
    """What an item was made from, what was made from it, and which contexts used it at which version."""
    return provenance(ledger, bank, item_id)
