"""Each end of a run frees what services hold for it, at least once; what trains is warmed while the first rollouts are
drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pmd.gateway.controller.advance import advance
from pmd.gateway.controller.releases import release
from pmd.gateway.loop.state import Service
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import RELEASE_AGAIN_S, Registry
from pmd.gateway.registry.status import Desired
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
