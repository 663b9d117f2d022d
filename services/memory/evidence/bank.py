"""One bank as the jobs see it: problems, attempts and notes, read from the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pmd.services.common.artifacts import read_table
from pmd.services.common.wire import Outcome, Problem, Ref
from pmd.services.memory.evidence.credibility import Attempt
from pmd.services.memory.evidence.terms import excerpt
from pmd.services.memory.ledger import Item, Ledger


def by_scope(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Items by the problem or cluster that they are about, order kept."""
    grouped: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        grouped[item.scope].append(item)
    return grouped


def attempt(item: Item, chars: int) -> Attempt:
    """An experience item as evidence, seen through its head of `chars` characters."""
    return Attempt(
        rollout_id=item.facts["rollout_id"],
        step=item.step,
        text=excerpt(item.text, chars),
        passed=item.facts["passed"],
        feedback=item.facts["feedback"],
    )


def attempts_at(ledger: Ledger, bank: str, problem_ids: Sequence[str] | None, chars: int) -> dict[str, list[Attempt]]:
    """The attempts at these problems (None: at all), oldest first, by problem; each seen through its head."""
    found = by_scope(ledger.active(bank, "experience", problem_ids))
    return {pid: [attempt(item, chars) for item in items] for pid, items in found.items()}


def mean_rewards(verdicts: Ref) -> dict[str, float]:
    """Mean reward by problem, infrastructure failures left out (Law 5)."""
    rewards: dict[str, list[float]] = defaultdict(list)
    for row in read_table(verdicts):
        if row["outcome"] != Outcome.INFRA_ERROR:
            rewards[row["problem_id"]].append(row["reward"])
    return {pid: sum(found) / len(found) for pid, found in rewards.items()}


def problems(ledger: Ledger, bank: str, ids: Sequence[str] | None = None) -> dict[str, Problem]:
    """The problems that a bank has experience of, by id; of some only when `ids` is given."""
    return {k: Problem.model_validate_json(body) for k, body in ledger.problems(bank, ids).items()}


def strategies(items: Sequence[Item]) -> list[Item]:
    """The strategies among insight items."""
    return [item for item in items if item.kind == "strategy"]


def lessons(items: Sequence[Item]) -> list[Item]:
    """The lessons among insight items."""
    return [item for item in items if item.kind == "lesson"]
