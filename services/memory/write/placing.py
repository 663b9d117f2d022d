"""Placing problems in the clusters that a bank keeps: those whose notes changed since it was last done.

Invariants:
- What is placed is written in a transaction of its own before anything is read of it. A job that is repeated finds
  nothing left to place.
- Under another embedder the clusters stay as they are: what their members' vectors add up to is taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import AbstractRequest
from pmd.services.memory.evidence.bank import problems
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.index.index import head
from pmd.services.memory.index.vectors import Vectors, chunks
from pmd.services.memory.ledger import Ledger, clusters, reads
from pmd.services.memory.ledger.clusters import Centre
from pmd.services.memory.write.cluster import WINDOW, Groups


def place(ledger: Ledger, vectors: Vectors, request: AbstractRequest, job: JobContext) -> None:
    """Bring the clusters of a bank up to its notes.

    Raises:
        EmbedderDown: when questions must be embedded and the embedder is out of reach.
    """
    bank = request.bank
    with ledger.read() as db:
        upto = reads.seq(db, bank)
        changed = clusters.changed_problems(db, bank)
        if not changed:
            return
        known = clusters.clusters_of(db, bank, changed)
        new = [pid for pid in changed if pid not in known]
        centres = clusters.centres(db, bank) if new else []
        waiting = clusters.members(db, bank, None, WINDOW)[::-1] if new else []

    def vectors_of(ids: Sequence[str]) -> Rows:
        asked = problems(ledger, bank, ids)
        return vectors.of([head(asked[pid].question()) for pid in ids], job.check)

    groups = Groups(request.settings.distance, request.settings.min_support)
    before = _sums(ledger, bank, centres, vectors, vectors_of)
    for name, (size, sum_D) in before.items():
        groups.know(name, size, sum_D)
    groups.wait(waiting, vectors_of(waiting))
    found: dict[str, str] = {}
    for part in chunks(new, WINDOW):
        job.check()
        found |= groups.add(part, vectors_of(part))
    other = {c.id for c in centres if c.embedder != vectors.id}
    grown = [
        Centre(name, vectors.id, size, sum_D.tobytes())
        for name, (size, sum_D) in groups.sums().items()
        if name in other or name not in before or size != before[name][0]
    ]
    moved = list(dict.fromkeys([*changed, *found]))
    with ledger.read() as db:
        steps = clusters.newest_strategies(db, bank, moved)
    placed = {pid: (found.get(pid) or known.get(pid), steps.get(pid)) for pid in moved}
    ledger.apply(bank, f"{job.key} clusters", lambda tx: clusters.place(tx, upto, grown, placed))


def _sums(
    ledger: Ledger, bank: str, centres: Sequence[Centre], vectors: Vectors, vectors_of: Callable[[Sequence[str]], Rows]
) -> dict[str, tuple[int, Rows]]:
    """Sizes of clusters and sums of their members' vectors, by the embedder in force."""
    if all(c.embedder == vectors.id for c in centres):
        return {c.id: (c.size, np.frombuffer(c.sum, dtype=np.float32)) for c in centres}
    with ledger.read() as db:
        everybody = sorted(clusters.everybody(db, bank).items())
    sums: dict[str, Rows] = {}
    for part in chunks(everybody, WINDOW):
        for (_, name), row in zip(part, vectors_of([pid for pid, _ in part]), strict=True):
            sums[name] = sums[name] + row if name in sums else row
    return {c.id: (c.size, sums[c.id]) for c in centres}
