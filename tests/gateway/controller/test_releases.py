"""Each end of a run frees what services hold for it, at least once; what trains is warmed while the first rollouts are
drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import delete, update

from pmd.gateway.controller.advance import advance
from pmd.gateway.controller.releases import release
from pmd.gateway.loop.state import Service
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry import deletion
from pmd.gateway.registry.registry import RELEASE_AGAIN_S, Registry
from pmd.gateway.registry.status import Desired
from pmd.gateway.registry.tables import PHASES, RELEASES
from pmd.gateway.views import RunStatus
from pmd.services.common.jobs import JobStatus
from tests.gateway.fakes import Clock, Fakes, status

Make = Callable[..., Recipe]
Start = Callable[..., str]
Drive = Callable[..., int]

HOLDERS = {"rollout", "memory", "trainer"}


def released(fakes: Fakes) -> set[str]:
    return {service for service, what, _ in fakes.told if what == "release"}


def test_a_run_that_succeeds_or_fails_is_released_everywhere(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    for name, failures, end in (("good-1", [], RunStatus.SUCCEEDED), ("bad-1", [ValueError("no")], RunStatus.FAILED)):
        fakes.told.clear()
        fakes.failing["train"] = list(failures)
        run = start(recipe(), name)
        drive(run)
        assert status(registry, run) == end
        assert released(fakes) == HOLDERS
        assert (registry.owed(run), registry.owing()) == ([], [])


@pytest.mark.parametrize(("desired", "end"), [("pause", RunStatus.PAUSED), ("cancel", RunStatus.CANCELLED)])
def test_a_service_that_is_away_when_a_run_ends_is_told_when_it_is_back(
    desired: Desired, end: RunStatus, recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    run = start(recipe())
    advance(registry, fakes.clients(), run, "me", 0.0)
    fakes.away.add("trainer")
    registry.ask(run, desired)
    drive(run)
    assert status(registry, run) == end
    assert released(fakes) == HOLDERS - {"trainer"}
    assert registry.owed(run) == [("trainer", "")]
    assert (registry.owing(), registry.owing()) == ([run], []), "reconcile finds it, and not at every beat"
    fakes.away.clear()
    clock = Clock()
    registry._clock = clock
    clock.skip(RELEASE_AGAIN_S + 1)
    for late in registry.owing():
        release(registry, fakes.clients(), late)
    assert released(fakes) == HOLDERS
    assert registry.owed(run) == []


def test_a_job_of_a_cancelled_run_ends_although_its_service_was_away(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    fakes.holding["rollout"] = threading.Event()
    run = start(recipe())
    while not any(row["name"] == "rollout" for row in registry.phases(run)):
        advance(registry, fakes.clients(), run, "me", 0.1)
    fakes.away.add("rollout")
    registry.ask(run, "cancel")
    drive(run)
    (key,) = [row["key"] for row in registry.phases(run) if row["name"] == "rollout"]
    assert registry.owed(run)[0] == ("rollout", key)
    fakes.away.clear()
    release(registry, fakes.clients(), run)
    assert fakes.clients()[Service.ROLLOUT].poll(key, 5).status is JobStatus.CANCELLED


def failed_beside_a_verifier_job(run: str, registry: Registry, fakes: Fakes) -> str:
    """A run fails while its evaluation is being verified: the key of that job."""
    fakes.holding["evaluate_verify"] = threading.Event()
    fakes.deaf.add("evaluate_verify")
    fakes.failing["rollout"] = [ValueError("no")]
    while status(registry, run) != RunStatus.FAILED:
        advance(registry, fakes.clients(), run, "me", 0.5)
    (row,) = [row for row in registry.phases(run) if row["name"] == "evaluate_verify"]
    assert row["status"] == "cancelled"
    return str(row["key"])


def test_a_job_of_an_ended_run_is_owed_until_it_has_ended(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.gateway.controller.releases.END_S", 0.05)
    run = start(recipe())
    key = failed_beside_a_verifier_job(run, registry, fakes)
    release(registry, fakes.clients(), run)
    assert registry.owed(run) == [("verifier", key)], "it was told to end, and still writes"
    with pytest.raises(deletion.StillHeld, match="verifier"):
        deletion.mark(registry, run)
    fakes.holding["evaluate_verify"].set()
    fakes.clients()[Service.VERIFIER].poll(key, 5)
    release(registry, fakes.clients(), run)
    assert registry.owed(run) == []
    deletion.mark(registry, run)


def test_a_run_that_is_resumed_goes_on_without_the_job_that_was_to_end(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    run = start(recipe())
    key = failed_beside_a_verifier_job(run, registry, fakes)
    registry.ask(run, "run")
    assert registry.owed(run) == [("verifier", key)]
    fakes.holding["evaluate_verify"].set()
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED
    assert registry.owed(run) == []
    (row,) = [row for row in registry.phases(run) if row["step"] == 0 and row["status"] == "succeeded"
              and row["name"] == "evaluate_verify"]  # fmt: skip
    assert row["attempt"] == 2


def test_a_run_that_ended_before_an_end_counted_its_jobs_in_is_not_deleted_under_them(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes
) -> None:
    run = start(recipe())
    key = failed_beside_a_verifier_job(run, registry, fakes)
    with registry.database.write() as db:  # as the release before left it
        db.execute(update(PHASES).where(PHASES.c.key == key).values(status="submitted"))
        db.execute(delete(RELEASES))
    with pytest.raises(deletion.StillHeld, match="verifier"):
        deletion.mark(registry, run)
    assert registry.owed(run) == [("verifier", key)]


def test_a_run_that_goes_on_owes_nothing(recipe: Make, start: Start, registry: Registry, fakes: Fakes) -> None:
    run = start(recipe())
    registry.ask(run, "pause")
    advance(registry, fakes.clients(), run, "me")
    assert len(registry.owed(run)) == len(HOLDERS)
    registry.ask(run, "run")
    assert registry.owed(run) == []


@pytest.mark.parametrize(("method", "trains"), [("pmd", True), ("base", False)])
def test_training_is_prepared_before_the_first_rollout_and_only_where_there_is_some(
    method: str, trains: bool, recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    run = start(recipe(method=method))
    advance(registry, fakes.clients(), run, "me", 0.0)
    assert fakes.told == ([("trainer", "prepare", run)] if trains else [])
    drive(run)
    assert [what for _, what, _ in fakes.told].count("prepare") == trains
