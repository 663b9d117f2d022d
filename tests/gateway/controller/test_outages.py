"""What the controller does while services, storage or the registry are away: it waits, and blames no run."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from pmd.gateway.controller.advance import advance
from pmd.gateway.controller.tasks import advance as advance_module
from pmd.gateway.loop.state import Service
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import Registry
from pmd.gateway.views import RunStatus
from pmd.services.common.artifacts import ArtifactError
from pmd.services.common.client import ServiceClient
from pmd.services.common.sql import Busy
from tests.gateway.fakes import TOKEN, Clock, Fakes, status

Make = Callable[..., Recipe]
Start = Callable[..., str]
Drive = Callable[..., int]


def test_a_service_away_is_waited_for_and_costs_no_attempt(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.away.add("verifier")
    monkeypatch.setattr("pmd.gateway.controller.advance.RETRY_S", 30.0)
    run = start(recipe(max_attempts=1))
    clock = Clock()
    registry._clock = clock
    clients = fakes.clients()
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    for _ in range(3):
        delay = advance(registry, clients, run, "me")
        assert delay is not None
        assert advance(registry, clients, run, "me") is None, "not due yet"
        clock.skip(delay + 1)
    assert [e.type for e in registry.events(run)].count("run.waiting") == 1
    fakes.away.clear()
    monkeypatch.setattr("pmd.gateway.controller.advance.RETRY_S", 0.001)
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED


def test_a_service_that_hangs_is_waited_for_like_one_that_is_away(
    recipe: Make, start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.client.ANSWER_TIMEOUT_S", 0.1)
    run = start(recipe(method="base"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = ServiceClient(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN)
        assert advance(registry, dict.fromkeys(Service, client), run, "me") is not None
    (waiting,) = [e.payload for e in registry.events(run) if e.type == "run.waiting"]
    assert "ReadTimeout" in waiting["reason"]


def test_patience_with_a_service_ends(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.away.add("rollout")
    run = start(recipe())
    clock = Clock()
    registry._clock = clock
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    clients = fakes.clients()
    assert advance(registry, clients, run, "me") is not None
    clock.skip(advance_module.PATIENCE_S + 1)
    assert advance(registry, clients, run, "me") is None
    assert status(registry, run) == RunStatus.FAILED
    assert re.search(r"out of reach for 6\d\d s", registry.run(run)["error"]), "601 s, more where the machine is slow"


def test_a_registry_that_is_busy_is_not_the_runs_fault(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(recipe())

    def held(*_: object, **__: object) -> str:
        raise Busy("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "renew", held)
        patch.setattr("pmd.gateway.registry.registry.LEASE_S", 0.0)
        with pytest.raises(Busy):
            advance(registry, fakes.clients(), run, "me")
    assert status(registry, run) != RunStatus.FAILED
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED


def test_an_artifact_that_is_lost_is_made_again(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, errors = advance_module.read_table, [ArtifactError("verify.1.parquet does not exist")]

    def lossy(ref: Any) -> Any:
        if errors:
            raise errors.pop()
        return read(ref)

    monkeypatch.setattr(advance_module, "read_table", lossy)
    run = start(recipe(teacher={"lead_gate": True}))
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]
    (failure,) = [e.payload for e in registry.events(run, limit=10_000) if e.type == "phase.failed"]
    assert (failure["name"], failure["attempt"], failure["retry"]) == ("verify", 1, True)


def test_a_read_error_of_the_controller_is_waited_for_and_costs_no_attempt(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, errors = advance_module.read_table, [OSError(5, "Input/output error")]

    def flaky(ref: Any) -> Any:
        if errors:
            raise errors.pop()
        return read(ref)

    monkeypatch.setattr(advance_module, "read_table", flaky)
    run = start(recipe(teacher={"lead_gate": True}, max_attempts=1))
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]
    assert set(fakes.jobs().values()) == {1}
    (waiting,) = [e.payload for e in registry.events(run, limit=10_000) if e.type == "run.waiting"]
    assert "Input/output error" in waiting["reason"]
