"""Planted effects through the real jobs: contexts hold notes out by chance, the lead gate's probe says what they lead
to, and beliefs and intervals follow, per note and per problem."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from pmd.services.common.artifacts import read_table
from pmd.services.common.options import ContextSettings, QualitySettings
from pmd.services.common.requests import RecordRequest, RetrieveRequest
from pmd.services.memory.evidence.beliefs import BELIEVED
from pmd.services.memory.evidence.effect import effect, effect_at, gather
from pmd.services.memory.ledger import reads
from pmd.services.memory.retrieve.contexts import retrieve
from pmd.services.memory.write.record import record
from tests.memory import ordinary
from tests.memory.world import World

STEPS = 32
BASE = 0.45
"""Pass rate without memory, give or take a tenth by problem."""
OWN = {0: 0.35, 1: -0.35, 2: 0.0}
"""What a problem's own note does, by the problem's number modulo 3."""
ELSEWHERE = {0: 0.2, 1: -0.2}
"""What a note of another problem does, by the topic modulo 2."""


def planted(item_scope: str, problem_id: str) -> float:
    """The effect of a note at a problem."""
    number, topic = int(problem_id[-2:]), int(problem_id[-5:-3])
    return OWN[number % 3] if item_scope == problem_id else ELSEWHERE[topic % 2]


def one_step(world: World, step: int, homes: dict[str, str], rng: np.random.Generator) -> dict[str, list[str]]:
    """Attempts without memory, contexts, their probes, and the record of both. What each context showed, by problem."""
    ids = list(world.problems)
    level = {pid: BASE + 0.1 * np.cos(n) for n, pid in enumerate(ids)}
    rollouts, verdicts = world.batch(step, [(pid, "I recall.", bool(rng.random() < level[pid])) for pid in ids * 2])
    request = RetrieveRequest(
        bank="b",
        problems=world.problems_ref,
        rollouts=rollouts,
        verdicts=verdicts,
        step=step,
        settings=ContextSettings(demonstrations="none", feedback="never"),
        quality=QualitySettings(hold_out=0.25),
        evidence="effect",
        prompts=world.prompts,
        out=f"file://{world.folder}/s{step}/contexts.parquet",
    )
    rows = read_table(retrieve(world.ledger, world.search, request, world.job(f"s{step}.retrieve")).contexts)
    shown = {row["problem_id"]: [note["id"] for note in json.loads(row["items"])] for row in rows}
    chances = {pid: level[pid] + sum(planted(homes[i], pid) for i in shown[pid]) for pid in ids}
    _, probes = world.batch(1000 + step, [(pid, "I read.", bool(rng.random() < chances[pid])) for pid in ids])
    recorded = RecordRequest(
        bank="b",
        step=step + 1,
        rollouts=rollouts,
        verdicts=verdicts,
        problems=world.problems_ref,
        keep_attempts=2,
        outcomes=probes,
        outcomes_step=step,
    )
    record(world.ledger, recorded, world.job(f"s{step + 1}.record"))
    return shown


@pytest.mark.slow
def test_beliefs_and_intervals_follow_planted_effects(tmp_path: Path) -> None:
    some = [one for one in ordinary.bank(ordinary.SCIENCE, untold=1) if int(one.problem.id[-2:]) < 7]
    only_first = [ordinary.Ordinary(o.problem, o.topic, o.subject, o.notes.split("\n")[0], o.approach) for o in some]
    world = ordinary.filled(tmp_path, only_first)
    homes = {item.id: item.scope for item in world.ledger.active("b", "insight")}
    assert len(homes) == 120
    rng = np.random.default_rng(7)
    last: dict[str, list[str]] = {}
    for step in range(2, 2 + STEPS):
        last = one_step(world, step, homes, rng)
    with world.ledger.read() as db:
        outcomes = gather(reads.trials(db, "b", list(homes)))

    covered: dict[str, list[bool]] = defaultdict(list)
    beliefs: dict[float, list[float]] = defaultdict(list)
    for item_id, home in homes.items():
        for pid, found in outcomes[item_id].items():
            own = pid == home
            low, high = effect({pid: found}).interval
            covered["own" if own else "elsewhere"].append(low <= planted(home, pid) <= high)
            if own:
                beliefs[planted(home, pid)].append(effect_at(pid, outcomes[item_id]).belief)
    assert len(covered["own"]) == 120
    assert len(covered["elsewhere"]) >= 10
    assert 0.9 <= np.mean(covered["own"]) <= 1.0
    assert np.mean(covered["elsewhere"]) >= 0.9
    assert np.mean([b >= BELIEVED for b in beliefs[0.35]]) >= 0.9, "what helps is kept, but for bad luck at the start"
    assert np.mean([b < BELIEVED for b in beliefs[-0.35]]) >= 0.95, "what harms goes"
    means = [np.mean(beliefs[planted_effect]) for planted_effect in (-0.35, 0.0, 0.35)]
    assert means == sorted(means), "what does nothing lies between: it is dropped where its first trials were unlucky"
    shown_last = {homes[i]: planted(homes[i], pid) for pid, items in last.items() for i in items if homes[i] == pid}
    assert sum(e < 0 for e in shown_last.values()) <= 0.05 * sum(e > 0 for e in shown_last.values())
