"""`record`: a step's rollouts and verdicts become experience.

Invariants: evaluation problems never enter a bank (Law 3); an `infra_error` is no experience (Law 5); each
problem keeps `keep_attempts`, newest first and both outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pmd.services.common.artifacts import read_problems, read_table
from pmd.services.common.jobs import JobContext
from pmd.services.common.options import QualitySettings
from pmd.services.common.requests import MemoryCounts, RecordRequest
from pmd.services.common.wire import Outcome
from pmd.services.memory.evidence.bank import by_scope, mean_rewards
from pmd.services.memory.evidence.effect import Effect, effect, gather
from pmd.services.memory.evidence.quality import surplus
from pmd.services.memory.ledger import Item, Ledger, Transaction, reads
from pmd.services.memory.ledger.rows import load
from pmd.services.memory.ledger.transaction import HARM

ACTOR = "record"


def over_budget(attempts: Sequence[Item], budget: int) -> list[Item]:
    """The attempts of a problem to retire, oldest first of the outcome that there is more of.

    Rare successes are what insights are made of: a flood of failures must not wash them out. Attempts that people
    hold stay, outside the budget.
    """
    free = [a for a in attempts if not a.protected]
    outcomes = ([a for a in free if a.facts["passed"]], [a for a in free if not a.facts["passed"]])
    beyond = []
    while sum(map(len, outcomes)) > budget:
        beyond.append(max(outcomes, key=len).pop(0))
    return beyond


def _harmful(tx: Transaction, step: int) -> list[tuple[Item, Effect]]:
    """Notes that lower the reward beyond reasonable doubt, of those that were tried in `step`: what is known of the
    others is what was known before."""
    tried = load(tx.db, tx.bank, reads.tried(tx.db, tx.bank, step)).values()
    notes = {item.id: item for item in tried if item.level != "experience" and item.status == "active"}
    outcomes = gather(reads.trials(tx.db, tx.bank, list(notes)))
    measured = ((notes[item_id], effect(found)) for item_id, found in outcomes.items())
    return [(item, found) for item, found in measured if found.harmful]


def _retired(tx: Transaction, quality: QualitySettings, step: int) -> list[Item]:
    """Notes that the rules in force retire."""
    after, budget = quality.stale_after, quality.max_notes
    stale = reads.unconfirmed(tx.db, tx.bank, step - after) if after is not None else []
    beyond = 0 if budget is None else reads.standing_notes(tx.db, tx.bank) - len(stale) - budget
    if beyond <= 0:
        return stale
    gone = {item.id for item in stale}
    oldest = reads.least_confirmed(tx.db, tx.bank, len(stale) + beyond)
    return stale + surplus([item for item in oldest if item.id not in gone], beyond)


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
    problems = read_problems(request.problems, touched)
    bodies = {pid: problems[pid].model_dump_json() for pid in touched}
    held = by_scope(ledger.active(request.bank, "experience", touched))
    arriving = by_scope(attempts)
    beyond = [
        item for pid in touched for item in over_budget([*held.get(pid, []), *arriving[pid]], request.keep_attempts)
    ]

    quality = request.quality
    rewards = mean_rewards(request.outcomes) if request.outcomes else {}

    def change(tx: Transaction) -> None:
        tx.begin_step(request.step)
        if request.outcomes_step is not None:
            tx.reward(request.outcomes_step, rewards)
        tx.set_status(_retired(tx, quality, request.step), "retired", request.step, ACTOR)
        if quality.quarantine and request.outcomes_step is not None:
            for note, found in _harmful(tx, request.outcomes_step):
                low, high = found.interval
                says = f"lowers the reward by {-found.mean:.2f} ({-high:.2f} to {-low:.2f})"
                tx.set_status([note], "quarantined", request.step, ACTOR, **{HARM: says})
        tx.put_problems(bodies)
        tx.write(attempts, ACTOR)
        tx.set_status([item for item in beyond if item.id], "retired", request.step, ACTOR)
        tx.write([replace(item, status="retired") for item in beyond if not item.id], ACTOR)

    counts = ledger.apply(request.bank, job.key, change)
    return counts.model_copy(update={"edits": ledger.begin_step(request.bank, request.step)})
