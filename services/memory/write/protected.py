"""Room for what people hold: their notes take places of the fixed budget, and what finds none becomes a proposal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pmd.services.memory.ledger import Item, fingerprint


def make_room(
    elected: Sequence[Item], standing: Sequence[Item], budget: int
) -> tuple[list[Item], list[tuple[Item, Item]]]:
    """The elected notes that fit beside those that people hold, and proposals for the rest.

    Args:
        elected: what a machine would keep of one problem or cluster, best first; quarantined notes take no place.
        standing: what is there, protected or not.
        budget: places for each kind of note.

    Returns:
        The notes to write, and pairs (protected item, note that would take its place).
    """
    protected = [item for item in standing if item.protected]
    if not protected:
        return list(elected), []
    said = {(item.kind, fingerprint(item.text)) for item in protected}
    taken = Counter(item.kind for item in protected)
    kept: list[Item] = []
    proposals: list[tuple[Item, Item]] = []
    for item in elected:
        if (item.kind, fingerprint(item.text)) in said:
            continue  # a person's note says it
        if item.status == "active":
            if taken[item.kind] >= budget:
                weakest = next(h for h in reversed(protected) if h.kind == item.kind) if taken[item.kind] else None
                proposals += [(weakest, item)] if weakest is not None else []
                continue
            taken[item.kind] += 1
        kept.append(item)
    return kept, proposals
