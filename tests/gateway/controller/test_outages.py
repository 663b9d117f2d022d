"""What the controller does while services, storage or the registry are away: it waits, and blames no run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pmd.gateway.controller import advance as advance_module
from pmd.gateway.controller.advance import advance
from pmd.gateway.loop.state import Service
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import Registry
from pmd.gateway.registry.status import Desired
from pmd.gateway.views import RunStatus
from pmd.services.common.artifacts import ArtifactError
from pmd.services.common.client import ServiceClient
from pmd.services.common.jobs import JobStatus
from pmd.services.common.sql import Busy
from pmd.services.common.tokens import Tokens
from pmd.services.common.waiting import Away
from tests.gateway.controller.test_advance import recorded, weights
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
    monkeypatch.setattr("pmd.services.common.alive.SILENCE_S", 0.1)
    monkeypatch.setattr("pmd.services.common.alive.SIGN_TIMEOUT_S", 0.1)
    run = start(recipe(method="base"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = ServiceClient(f"http://127.0.0.1:{silent.getsockname()[1]}", Tokens(TOKEN))
        assert advance(registry, dict.fromkeys(Service, client), run, "me") is not None
    (waiting,) = [e.payload for e in registry.events(run) if e.type == "run.waiting"]
    assert "it does not answer" in waiting["reason"]


def test_a_token_that_a_service_refuses_is_waited_for(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    run = start(recipe(max_attempts=1))
    door = httpx.MockTransport(lambda _: httpx.Response(401, json={"title": "wrong bearer token"}))
    client = ServiceClient("http://service", Tokens(TOKEN), transport=door)
    clock = Clock()
    registry._clock = clock
    delay = advance(registry, dict.fromkeys(Service, client), run, "me")
    assert delay is not None
    assert "http://service can't serve now: it refuses our token" in str(registry.reason(registry.run(run)))
    clock.skip(delay + 1)
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED


HOUR_S = 3600.0


def test_a_service_may_be_away_for_hours(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.away.add("rollout")
    run = start(recipe())
    clock = Clock()
    registry._clock = clock
    monkeypatch.setattr("pmd.services.common.client.BACKOFF_S", 0.0)
    clients = fakes.clients()
    for _ in range(5):
        assert advance(registry, clients, run, "me") is not None
        clock.skip(HOUR_S)
    assert status(registry, run) == RunStatus.RUNNING
    assert "connection refused" in str(registry.reason(registry.run(run)))
    fakes.away.clear()
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED
    assert registry.reason(registry.run(run)) is None


@pytest.mark.parametrize(("desired", "end"), [("pause", RunStatus.PAUSED), ("cancel", RunStatus.CANCELLED)])
def test_a_run_that_waits_for_a_service_obeys_a_person_at_once(
    desired: Desired, end: RunStatus, recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    run = start(recipe())
    fakes.away.add("rollout")
    assert advance(registry, fakes.clients(), run, "me") is not None
    registry.ask(run, desired)
    drive(run)
    assert status(registry, run) == end
    if desired == "pause":
        fakes.away.clear()
        registry.ask(run, "run")
        drive(run)
        assert status(registry, run) == RunStatus.SUCCEEDED


LACKS = {
    "rollout": "rollout: the engine is starting",
    "verify": "the sandbox's zygote could not start",
    "record": "the database postgres is out of reach",
    "reflect": "the model that writes notes can't be reached",
    "abstract": "the model that writes notes at https://models.example/v1 can't answer now: HTTP 429",
    "retrieve": "http://embedder/v1/embeddings failed 3 times: ConnectError",
    "train": "storage can't be used: [Errno 28] No space left on device: '/data/runs'",
    "publish": "the engine is starting",
    "evaluate": "the engine is starting",
    "evaluate_verify": "the sandbox's zygote could not start",
}


@pytest.mark.parametrize("phase", LACKS)
def test_law_12_what_a_service_depends_on_may_be_away_in_every_phase(
    phase: str,
    recipe: Make,
    start: Start,
    registry: Registry,
    fakes: Fakes,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More tries than any number of attempts; the run says why it waits, and ends as undisturbed."""
    monkeypatch.setattr("pmd.services.common.runner.delay", lambda *_: 0.002)
    monkeypatch.setattr("pmd.gateway.controller.advance.POLL_S", 0.01)
    monkeypatch.setattr("pmd.gateway.controller.advance.POLL_MANY_S", 0.01)
    undisturbed = start(recipe(max_attempts=1), "calm-1")
    drive(undisturbed)
    lacking = [Away(LACKS[phase]) for _ in range(30)]
    fakes.failing[phase] = list(lacking)
    run = start(recipe(max_attempts=1), "away-1")
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]
    events = registry.events(run, limit=10_000)
    assert next(e.payload["reason"] for e in events if e.type == "run.waiting") == LACKS[phase]
    assert not [e for e in events if e.type == "phase.failed"]
    assert sorted(recorded(registry, run)) == sorted(recorded(registry, undisturbed))
    assert weights(registry.state(run)[0]) == weights(registry.state(undisturbed)[0])


def test_a_run_whose_job_waits_is_paused_and_cancelled_at_once(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmd.services.common.runner.delay", lambda *_: 30.0)
    fakes.failing["reflect"] = [Away("the model that writes notes can't be reached")]
    run = start(recipe())
    while registry.reason(registry.run(run)) is None:
        advance(registry, fakes.clients(), run, "me", 0.2)
    registry.ask(run, "pause")
    drive(run)
    assert status(registry, run) == RunStatus.PAUSED
    registry.ask(run, "run")
    while registry.reason(registry.run(run)) is None:
        advance(registry, fakes.clients(), run, "me", 0.2)
    registry.ask(run, "cancel")
    drive(run)
    assert status(registry, run) == RunStatus.CANCELLED
    (key,) = [row["key"] for row in registry.phases(run) if row["name"] == "reflect"]
    assert fakes.clients()[Service.MEMORY].poll(key, 0).status is JobStatus.CANCELLED


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
