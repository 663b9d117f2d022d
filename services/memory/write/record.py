"""`record`: a step's rollouts and verdicts become experience.

Invariants: evaluation problems never enter a bank (Law 3); an `infra_error` is no experience (Law 5); each
problem keeps `keep_attempts`, newest first and both outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pmd.services.common.artifacts import read_problems, read_table
from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import MemoryCounts, RecordRequest
from pmd.services.common.wire import Level, Outcome
from pmd.services.memory.evidence.bank import by_scope, mean_rewards
from pmd.services.memory.evidence.effect import Effect, effect, gather
from pmd.services.memory.evidence.quality import upkeep
from pmd.services.memory.ledger import Item, Ledger, Transaction, reads
from pmd.services.memory.ledger.transaction import HARM

ACTOR = "record"
NOTES: tuple[Level, ...] = ("insight", "behavior")


def over_budget(attempts: Sequence[Item], budget: int) -> list[Item]:
    """The attempts of a problem to retire, oldest first of the outcome that there is more of.

    Rare successes are what insights are made of: a flood of failures must not wash them out. Attempts that people
    hold stay, outside the budget.
    """
    free = [a for a in attempts if not a.protected]
    outcomes = ([a for a in free if a.facts["passed"]], [a for a in free if not a.facts["passed"]])
    surplus = []
    while sum(map(len, outcomes)) > budget:
        surplus.append(max(outcomes, key=len).pop(0))
    return surplus


def _harmful(tx: Transaction, notes: Sequence[Item]) -> list[tuple[Item, Effect]]:
    """Notes that lower the reward beyond reasonable doubt."""
    outcomes = gather(reads.trials(tx.db, tx.bank, [item.id for item in notes]))
    measured = ((item, effect(outcomes[item.id])) for item in notes if item.id in outcomes)
    return [(item, found) for item, found in measured if found.harmful]


def record(ledger: Ledger, request: RecordRequest, job: JobContext) -> MemoryCounts:
    """Write experience.

    Raises:
        ValueError: when a rollout is of a problem outside the train split.
    """
    verdicts = {row["rollout_id"]: row for row in read_table(request.verdicts)}
    rollouts = read_table(request.rollouts)
    foreign = sorted({r["problem_id"] for r in rollouts if r["split"] != "train"})
    if foreign:
        raise ValueError(f"evaluation problems never enter a bank; refused: {', '.join(foreign[:5])}")
    problems = read_problems(request.problems)
    attempts = [
        Item(
            level="experience",
            kind="attempt",
            scope=row["problem_id"],
            text=row["text"].replace("\0", "\ufffd"),  # databases keep no NUL
            step=request.step,
            policy_version=row["policy_version"],
            facts={
                "rollout_id": f"{request.step}:{row['rollout_id']}",
                "passed": verdict["outcome"] == Outcome.PASSED,
                "outcome": verdict["outcome"],
                "feedback": verdict["feedback"],
            },
        )
        for row in rollouts
        if (verdict := verdicts[row["rollout_id"]])["outcome"] != Outcome.INFRA_ERROR
    ]
    touched = sorted({item.scope for item in attempts})
    bodies = {pid: problems[pid].model_dump_json() for pid in touched}
    held = by_scope(ledger.active(request.bank, "experience", touched))
    arriving = by_scope(attempts)
    surplus = [
        item for pid in touched for item in over_budget([*held.get(pid, []), *arriving[pid]], request.keep_attempts)
    ]

    quality = request.quality
    rewards = mean_rewards(request.outcomes) if request.outcomes else {}
    tended = quality.stale_after is not None or quality.max_notes is not None or quality.quarantine
    notes = [i for level in NOTES for i in ledger.active(request.bank, level)] if tended else []
    retired = upkeep(notes, request.step, quality.stale_after, quality.max_notes)

    def change(tx: Transaction) -> None:
        tx.begin_step(request.step)
        if request.outcomes_step is not None:
            tx.reward(request.outcomes_step, rewards)
        tx.set_status(retired, "retired", request.step, ACTOR)
        if quality.quarantine:
            for note, found in _harmful(tx, notes):
                low, high = found.interval
                says = f"lowers the reward by {-found.mean:.2f} ({-high:.2f} to {-low:.2f})"
                tx.set_status([note], "quarantined", request.step, ACTOR, **{HARM: says})
        tx.put_problems(bodies)
        tx.write(attempts, ACTOR)
        tx.set_status([item for item in surplus if item.id], "retired", request.step, ACTOR)
        tx.write([replace(item, status="retired") for item in surplus if not item.id], ACTOR)

    counts = ledger.apply(request.bank, job.key, change)
    return counts.model_copy(update={"edits": ledger.begin_step(request.bank, request.step)})
