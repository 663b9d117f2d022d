"""A backup that was made while a run went on is restored where nothing is left, and the run ends as if undisturbed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from pmd.gateway.local import launcher
from pmd.gateway.local.backup import Places, backup, restore
from pmd.gateway.loop.state import PhaseName
from tests.gateway.local.outages import PATIENCE_S, Installation

STEPS = 3

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2400)]


def recorded(registry: Path, run: str) -> set[tuple[int, str, int, float]]:
    """Phases that have ended, and when; the file is not touched."""
    with closing(sqlite3.connect(f"file:{registry}?mode=ro", uri=True)) as db:
        query = "SELECT step, name, attempt, ended FROM phases WHERE run_id=? AND status='succeeded'"
        return set(db.execute(query, (run,)))


@pytest.mark.parametrize("moment", [PhaseName.RECORD, PhaseName.TRAIN])
def test_a_run_goes_on_from_a_backup_with_the_same_weights(
    moment: PhaseName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PMD_URL", "PMD_TOKEN", "PMD_REDIS_URL", "REDIS_URL", "PMD_DATABASE_URL", "PMD_MEMORY_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    state_dir, kept = tmp_path / "state", tmp_path / "kept"
    places, registry = Places.of(state_dir, {}), state_dir / "gateway" / "registry.db"
    installation = Installation(state_dir)
    try:
        calm = installation.create("calm", STEPS, external=False)
        list(installation.play(calm, []))
        run = installation.create("kept", STEPS, external=False)
        deadline = time.monotonic() + PATIENCE_S
        while not any((r["step"], r["name"]) == (2, moment) for r in installation.registry.phases(run)):
            assert time.monotonic() < deadline, f"{run} does not come to step 2"
            time.sleep(0.02)
        made = backup(places, kept)
        assert made["held_ms"] < 5000
        before = recorded(kept / "registry.db", run)
        undisturbed = installation.weights(calm)
        # It goes on, and all of that is lost.
        while len(recorded(registry, run)) < len(before) + 2:
            assert time.monotonic() < deadline, "the backup has stopped the run"
            time.sleep(0.1)
    finally:
        installation.close()
    shutil.rmtree(state_dir)
    restore(places, kept)
    installation = Installation(state_dir)
    try:
        assert recorded(registry, run) >= before, "what was recorded is, and was not done again"
        list(installation.play(run, []))
        assert installation.weights(run) == undisturbed == installation.weights(calm)
        assert installation.faults(run, calm) == []
        phases = [json.loads(row["result"] or "null") for row in installation.registry.phases(run)]
        assert None not in phases
    finally:
        installation.close()
        launcher.stop(state_dir)
