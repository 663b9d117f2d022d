"""What the controller claims: killed, doubled, late or starved, a run ends with the same phases recorded once each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pmd.gateway.controller.advance import advance
from pmd.gateway.loop.plan import last_step, step_plan
from pmd.gateway.loop.state import RunState
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import LeaseLost, Registry
from pmd.gateway.views import RunStatus
from pmd.services.common.client import ServiceClient, ServiceRefused
from pmd.services.common.requests import TrainResult
from tests.gateway.fakes import Clock, Fakes, retryable, status

Make = Callable[..., Recipe]
Start = Callable[..., str]
Drive = Callable[..., int]


class Killed(BaseException):
    """kill -9: nothing below may catch it."""


def recorded(registry: Registry, run: str) -> list[tuple[int, str]]:
    """Succeeded phases in the order of their events."""
    events = registry.events(run, limit=10_000)
    return [(e.payload["step"], e.payload["name"]) for e in events if e.type == "phase.succeeded"]


def advance_to(registry: Registry, fakes: Fakes, run: str, phase: str) -> None:
    """Advance a run until the first job of `phase`, which the test holds, is open."""
    clients = fakes.clients()
    while not any(row["name"] == phase for row in registry.phases(run)):
        advance(registry, clients, run, "me", 0.05)


def planned(recipe: Recipe) -> list[tuple[int, str]]:
    return [(step, name) for step in range(last_step(recipe) + 1) for name in step_plan(recipe, step)]


def weights(state: RunState) -> list[str]:
    """What each training step made: equal bodies make equal files."""
    results = [TrainResult.model_validate(r.result) for (_, name), r in state.records.items() if name == "train"]
    return [Path(r.weights.uri.removeprefix("file://"), "model.safetensors").read_bytes().hex() for r in results]


@pytest.mark.parametrize("method", ["base", "grpo", "sdpo", "memory_agent", "pmd"])
def test_every_method_runs_its_plan(
    method: str, recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    plan = recipe(method=method)
    run = start(plan)
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]
    assert sorted(recorded(registry, run)) == sorted((s, str(n)) for s, n in planned(plan))
    assert set(fakes.jobs().values()) == {1}
    row = registry.run(run)
    assert row["step"] == last_step(plan)
    assert row["version"] == (last_step(plan) if plan.trains else 0)


def test_a_tick_of_no_time_makes_no_difference(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    plan = recipe()
    run = start(plan)
    calls = drive(run, budget_s=0.01)
    assert calls > 2
    assert Counter(recorded(registry, run)) == Counter(planned(plan))


CRASHES = ["before_submitted", "after_submitted", "after_submit", "before_commit", "after_commit"]


@pytest.mark.parametrize("point", CRASHES)
def test_a_kill_anywhere_changes_nothing(
    point: str,
    recipe: Make,
    start: Start,
    drive: Drive,
    registry: Registry,
    fakes: Fakes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every call of the guarded line is killed once; the run ends like one that was left alone."""
    plan = recipe(teacher={"lead_gate": True})
    drive(start(plan, "calm"))
    calm = registry.state("calm")[0]

    killed: set[str] = set()

    def kill_once(key: str, when: str) -> None:
        if when == point and key not in killed:
            killed.add(key)
            raise Killed(key)

    submitted, succeeded, submit = Registry.submitted, Registry.succeeded, ServiceClient.submit

    def deadly_submitted(self: Registry, lease: Any, phase: Any, digest: str) -> None:
        kill_once(phase.key, "before_submitted")
        submitted(self, lease, phase, digest)
        kill_once(phase.key, "after_submitted")

    def deadly_submit(self: ServiceClient, key: str, kind: str, request: Any) -> Any:
        job = submit(self, key, kind, request)
        kill_once(key, "after_submit")
        return job

    def deadly_succeeded(self: Registry, lease: Any, phase: Any, *args: Any, **kwargs: Any) -> None:
        kill_once(phase.key, "before_commit")
        succeeded(self, lease, phase, *args, **kwargs)
        kill_once(phase.key, "after_commit")

    monkeypatch.setattr(Registry, "submitted", deadly_submitted)
    monkeypatch.setattr(Registry, "succeeded", deadly_succeeded)
    monkeypatch.setattr(ServiceClient, "submit", deadly_submit)
    clock = Clock()
    registry._clock = clock  # a dead owner's lease has to lapse
    run = start(plan, "killed")
    for _ in range(200):
        try:
            drive(run)
            break
        except Killed:
            clock.skip(60)
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]
    assert len(killed) >= len(planned(plan))
    assert Counter(recorded(registry, run)) == Counter(recorded(registry, "calm"))
    assert set(fakes.jobs().values()) == {1}, "no job was worked on twice"
    assert [e.seq for e in registry.events(run)] == list(range(1, len(registry.events(run)) + 1))
    assert weights(registry.state(run)[0]) == weights(calm)


def test_a_run_tells_once_from_which_step_on_edits_of_memory_count(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    fakes.edits = {2: 3}
    run = start(recipe())
    drive(run)
    told = [e.payload for e in registry.events(run, limit=10_000) if e.type == "memory.edited"]
    assert told == [{"step": 2, "edits": 3, "seq": 2}]


def test_a_second_owner_finds_the_run_taken(recipe: Make, start: Start, registry: Registry, fakes: Fakes) -> None:
    run = start(recipe(method="base"))
    lease = registry.claim(run, "first")
    assert lease is not None
    assert advance(registry, fakes.clients(), run, "second") is None
    assert fakes.done == []


def test_an_owner_that_slept_writes_nothing(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease lapses between the end of a job and the commit; another owner finishes the run meanwhile."""
    run = start(recipe(method="base"))
    clock = Clock()
    registry._clock = clock
    succeeded = Registry.succeeded
    slept = []

    def sleepy(self: Registry, lease: Any, phase: Any, *args: Any, **kwargs: Any) -> None:
        if not slept:
            slept.append(phase.key)
            clock.skip(60)
            assert drive(run) >= 1
            assert status(registry, run) == RunStatus.SUCCEEDED
            with pytest.raises(LeaseLost):
                succeeded(self, lease, phase, *args, **kwargs)
            raise LeaseLost("as it was told")
        succeeded(self, lease, phase, *args, **kwargs)

    monkeypatch.setattr(Registry, "succeeded", sleepy)
    assert advance(registry, fakes.clients(), run, "sleepy") is None
    assert Counter(recorded(registry, run)) == Counter(planned(recipe(method="base")))


def test_doubled_wake_ups_record_everything_once(recipe: Make, start: Start, registry: Registry, fakes: Fakes) -> None:
    plan = recipe()
    run = start(plan)
    clients = fakes.clients()
    deadline = time.monotonic() + 200.0

    def worker(name: str) -> None:
        while status(registry, run) != RunStatus.SUCCEEDED and time.monotonic() < deadline:
            advance(registry, clients, run, f"{name}-{time.monotonic()}", 0.05)

    threads = [threading.Thread(target=worker, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert status(registry, run) == RunStatus.SUCCEEDED
    assert Counter(recorded(registry, run)) == Counter(planned(plan))
    assert set(fakes.jobs().values()) == {1}


def test_a_failure_that_may_pass_is_tried_again_under_a_new_key(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    fakes.failing["train"] = [retryable(), retryable()]
    run = start(recipe())
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED
    keys = [key for key in fakes.jobs() if ".s0001.train." in key]
    assert keys == [f"{run}.s0001.train.3"]
    failures = [e.payload for e in registry.events(run) if e.type == "phase.failed"]
    assert [(f["attempt"], f["retry"]) for f in failures] == [(1, True), (2, True)]


def test_a_poisonous_phase_fails_the_run_and_resume_gives_it_new_attempts(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    fakes.failing["verify"] = [retryable("the sandbox is gone") for _ in range(3)]
    run = start(recipe(max_attempts=3))
    drive(run)
    assert status(registry, run) == RunStatus.FAILED
    assert registry.run(run)["error"] == ("step 1, verify: failed 3 times, last: Retryable: the sandbox is gone")
    fakes.failing["verify"] = [retryable(), retryable()]
    registry.ask(run, "run")
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED
    assert registry.run(run)["error"] is None


def test_a_final_failure_is_not_repeated(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes
) -> None:
    fakes.failing["rollout"] = [ValueError("no such model type")]
    run = start(recipe())
    drive(run)
    assert registry.run(run)["error"] == "step 1, rollout: ValueError: no such model type"


def test_a_refused_request_fails_the_run_with_the_services_message(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = ServiceClient.submit
    monkeypatch.setattr(ServiceClient, "submit", lambda self, key, _, request: submit(self, key, "sing", request))
    run = start(recipe(method="base"))
    drive(run)
    assert status(registry, run) == RunStatus.FAILED
    assert "unknown kind 'sing'" in registry.run(run)["error"]


def test_a_key_that_names_another_body_is_left_for_a_new_one(
    recipe: Make, start: Start, drive: Drive, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade that writes requests differently, in the middle of a run."""
    submit = ServiceClient.submit

    def known(self: ServiceClient, key: str, kind: str, request: Any) -> Any:
        if key.endswith(".rollout.1"):
            raise ServiceRefused(409, "the key names other work")
        return submit(self, key, kind, request)

    monkeypatch.setattr(ServiceClient, "submit", known)
    run = start(recipe(schedule={"steps": 1}))
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]
    assert f"{run}.s0001.rollout.2" in fakes.jobs()


def test_what_works_under_a_key_that_names_other_work_is_to_end(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise ServiceRefused(409, "the key names other work")

    monkeypatch.setattr(ServiceClient, "submit", taken)
    run = start(recipe(schedule={"steps": 1}))
    advance(registry, fakes.clients(), run, "me", 0.5)
    (row,) = registry.phases(run)
    assert registry.owed(run) == [(row["service"], row["key"])]
    assert registry.owing() == [run], "reconcile finds it, although the run goes on"


def test_a_service_that_lost_its_jobs_is_given_them_again(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    fakes.holding["rollout"] = threading.Event()
    run = start(recipe(schedule={"steps": 1}))
    advance_to(registry, fakes, run, "rollout")
    fakes.forget("rollout")
    fakes.holding.pop("rollout").set()
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED


def test_pause_lets_the_phase_in_progress_end_and_resume_goes_on(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    plan = recipe()
    gate = fakes.holding["train"] = threading.Event()
    run = start(plan)
    advance_to(registry, fakes, run, "train")
    registry.ask(run, "pause")
    gate.set()
    drive(run)
    assert status(registry, run) == RunStatus.PAUSED
    assert recorded(registry, run)[-1] == (1, "train")
    drive(run)
    assert recorded(registry, run)[-1] == (1, "train"), "a paused run is left alone"
    registry.ask(run, "run")
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED
    assert Counter(recorded(registry, run)) == Counter(planned(plan))


def test_a_pause_that_comes_while_the_last_phase_runs_leaves_nothing_to_resume(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    gate = fakes.holding["evaluate_verify"] = threading.Event()
    run = start(recipe(method="base"))
    advance_to(registry, fakes, run, "evaluate_verify")
    registry.ask(run, "pause")
    gate.set()
    drive(run)
    assert status(registry, run) == RunStatus.SUCCEEDED


def test_a_pause_that_is_taken_back_as_the_run_begins_leaves_no_trace(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(recipe(method="base"))
    registry.ask(run, "pause")
    claim = registry.claim

    def resumed_meanwhile(run: str, owner: str, **about: Any) -> Any:
        lease = claim(run, owner, **about)
        registry.ask(run, "run")
        return lease

    monkeypatch.setattr(registry, "claim", resumed_meanwhile)
    advance(registry, fakes.clients(), run, "me")
    assert status(registry, run) == RunStatus.SUCCEEDED, registry.run(run)["error"]


def test_cancel_ends_the_job_and_the_run(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive
) -> None:
    fakes.holding["rollout"] = threading.Event()
    run = start(recipe())
    advance_to(registry, fakes, run, "rollout")
    registry.ask(run, "cancel")
    drive(run)
    assert status(registry, run) == RunStatus.CANCELLED
    deadline = time.monotonic() + 5
    key = f"{run}.s0001.rollout.1"
    while fakes.runners["rollout"]._store.get(key).status == "running" and time.monotonic() < deadline:  # type: ignore[union-attr]
        time.sleep(0.01)
    assert fakes.runners["rollout"]._store.get(key).status == "cancelled"  # type: ignore[union-attr]


def test_a_mistake_of_ours_fails_the_run_instead_of_repeating_for_ever(
    recipe: Make, start: Start, registry: Registry, fakes: Fakes, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: RunState) -> list[Any]:
        raise KeyError("tally")

    monkeypatch.setattr("pmd.gateway.controller.advance.next_phases", broken)
    run = start(recipe())
    drive(run)
    assert registry.run(run)["error"] == "the controller can't go on: KeyError: 'tally'"


def test_a_phase_costs_the_controller_little(recipe: Make, start: Start, drive: Drive, registry: Registry) -> None:
    plan = recipe(schedule={"steps": 10})
    run = start(plan)
    began = time.process_time()
    drive(run)
    assert (time.process_time() - began) / len(planned(plan)) < 0.1, "the four services' work included"
