"""The registry: statuses, fences, events."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, update

from pmd.gateway.loop.plan import next_phases
from pmd.gateway.loop.state import Record
from pmd.gateway.recipes.inputs import Inputs
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import IdempotencyConflict, Lease, LeaseLost, Registry, UnknownRun
from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.registry.status import VALID_TRANSITIONS, ForbiddenTransition, check_transition
from pmd.gateway.registry.tables import ARTIFACTS, RUNS
from pmd.gateway.views import RunStatus
from pmd.services.common.sql import Database
from pmd.services.common.wire import Policy

Make = Callable[..., Recipe]
Start = Callable[..., str]

ALLOWED = {
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "paused"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("paused", "queued"),
    ("paused", "cancelled"),
    ("failed", "queued"),
}
EDGES = list(itertools.product(RunStatus, RunStatus))


def force(registry: Registry, run: str, status: RunStatus) -> None:
    with registry.database.write() as db:
        db.execute(update(RUNS).where(RUNS.c.id == run).values(status=status))


@pytest.mark.parametrize(("old", "new"), [e for e in EDGES if e not in ALLOWED], ids=str)
def test_a_forbidden_edge_writes_nothing(
    old: RunStatus, new: RunStatus, recipe: Make, start: Start, registry: Registry
) -> None:
    run = start(recipe())
    force(registry, run, old)
    before = dict(registry.run(run))
    with pytest.raises(ForbiddenTransition), registry.database.write() as db:
        registry._set_status(db, run, old, new)
    assert dict(registry.run(run)) == before
    assert [e.type for e in registry.events(run)] == ["run.created"]


@pytest.mark.parametrize(("old", "new"), sorted(ALLOWED))
def test_an_allowed_edge_is_logged_with_its_change(
    old: str, new: str, recipe: Make, start: Start, registry: Registry
) -> None:
    run = start(recipe())
    with registry.database.write() as db:
        registry._set_status(db, run, RunStatus(old), RunStatus(new))
    assert registry.run(run)["status"] == new
    types = [e.type for e in registry.events(run)][1:]
    ends = new in {"succeeded", "failed", "cancelled"}
    assert types == (["run.status", "run.ended"] if ends else ["run.status"])


def test_every_status_has_its_edges() -> None:
    assert set(VALID_TRANSITIONS) == set(RunStatus)


def test_a_refusal_says_what_the_status_allows() -> None:
    with pytest.raises(ForbiddenTransition, match="run 'r' is paused; it allows :resume and :cancel"):
        check_transition("r", RunStatus.PAUSED, RunStatus.SUCCEEDED)
    with pytest.raises(ForbiddenTransition, match="succeeded; that is final"):
        check_transition("r", RunStatus.SUCCEEDED, RunStatus.QUEUED)


def test_a_lease_is_given_once_and_again_when_it_has_lapsed(recipe: Make, start: Start, database: Database) -> None:
    now = [1000.0]
    registry = Registry(database, clock=lambda: now[0])
    start(recipe())
    first = registry.claim("demo-1", "a")
    assert first is not None
    assert registry.claim("demo-1", "b") is None
    now[0] += 29
    registry.renew(first)
    now[0] += 29
    assert registry.claim("demo-1", "b") is None, "renewed"
    now[0] += 2
    second = registry.claim("demo-1", "b")
    assert second is not None
    assert second.epoch == first.epoch + 1


def test_a_stale_epoch_writes_nothing_by_any_method(recipe: Make, start: Start, registry: Registry) -> None:
    run = start(recipe())
    stale = registry.claim(run, "a")
    assert stale is not None
    (phase,) = next_phases(registry.state(run)[0])
    registry.submitted(stale, phase, "h")
    with registry.database.write() as db:
        db.execute(update(RUNS).values(lease_until=0.0))
    assert registry.claim(run, "b") is not None
    before = (dict(registry.run(run)), registry.events(run), [dict(p) for p in registry.phases(run)])
    writes: list[Callable[[Lease], object]] = [
        registry.renew,
        registry.release,
        lambda lease: registry.submitted(lease, phase, "h"),
        lambda lease: registry.succeeded(lease, phase, Record({}), step=1),
        lambda lease: registry.failed(lease, phase, "no", retry=True),
        lambda lease: registry.waits(lease, "away"),
        lambda lease: registry.finish(lease, RunStatus.FAILED, "no"),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write(stale)
    assert (dict(registry.run(run)), registry.events(run), [dict(p) for p in registry.phases(run)]) == before


def test_resuming_fences_an_owner_that_slept_since_before_the_failure(
    recipe: Make, start: Start, registry: Registry
) -> None:
    run = start(recipe())
    old = registry.claim(run, "a")
    assert old is not None
    registry.finish(old, RunStatus.FAILED, "why")
    registry.ask(run, "run")
    with pytest.raises(LeaseLost):
        registry.finish(old, RunStatus.SUCCEEDED)
    assert registry.run(run)["status"] == RunStatus.QUEUED


def test_a_phase_ends_once(recipe: Make, start: Start, registry: Registry) -> None:
    run = start(recipe())
    lease = registry.claim(run, "a")
    assert lease is not None
    state, _ = registry.state(run)
    (phase,) = next_phases(state)
    result = Policy(run=run, weights=state.inputs.base).model_dump(mode="json")
    registry.submitted(lease, phase, "h")
    registry.submitted(lease, phase, "h")
    registry.succeeded(lease, phase, Record(result), step=0, version=0)
    registry.succeeded(lease, phase, Record(result), step=0, version=0)
    registry.failed(lease, phase, "late", retry=False)
    types = [e.type for e in registry.events(run)]
    assert types == ["run.created", "phase.submitted", "phase.succeeded"]


def test_what_a_step_made_is_listed_with_its_hash(
    recipe: Make, start: Start, registry: Registry, drive: Callable[..., int]
) -> None:
    run = start(recipe(schedule={"steps": 1}))
    drive(run)
    with registry.database.read() as db:
        rows = db.execute(select(ARTIFACTS).order_by(ARTIFACTS.c.step, ARTIFACTS.c.kind)).mappings().all()
    assert [(r["step"], r["kind"]) for r in rows] == [
        (0, "evaluate"),
        (0, "evaluate_verify"),
        (1, "evaluate"),
        (1, "evaluate_verify"),
        (1, "retrieve"),
        (1, "rollout"),
        (1, "train"),
        (1, "verify"),
        (1, "weights"),
    ]
    assert all(len(r["sha256"]) == 64 for r in rows)
    assert rows[-1]["version"] == 1


def test_events_of_many_writers_are_numbered_without_gaps(recipe: Make, start: Start, registry: Registry) -> None:
    run = start(recipe())

    def toggle() -> None:
        for _ in range(20):
            registry.ask(run, "pause")
            registry.ask(run, "run")

    threads = [threading.Thread(target=toggle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seqs = [e.seq for e in registry.events(run, limit=1000)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(seqs) > 2


def test_a_pause_that_was_not_obeyed_yet_can_be_taken_back(recipe: Make, start: Start, registry: Registry) -> None:
    run = start(recipe())
    registry.ask(run, "pause")
    registry.ask(run, "run")
    assert (registry.run(run)["desired"], registry.run(run)["status"]) == ("run", "queued")


def test_a_cancel_can_not_be_taken_back(recipe: Make, start: Start, registry: Registry) -> None:
    run = start(recipe())
    registry.ask(run, "cancel")
    for desired in ("run", "pause"):
        with pytest.raises(ForbiddenTransition):
            registry.ask(run, desired)  # type: ignore[arg-type]
    registry.ask(run, "cancel")


def test_outages_with_answers_between_them_are_not_one_long_one(recipe: Make, start: Start, database: Database) -> None:
    now = [1000.0]
    registry = Registry(database, clock=lambda: now[0])
    start(recipe())
    lease = registry.claim("demo-1", "a")
    assert lease is not None
    assert registry.waits(lease, "away") == 0.0
    now[0] += 20
    registry.renew(lease)
    assert registry.waits(lease, "away") == 20.0
    registry.renew(lease, answered=True)
    now[0] += 20
    assert registry.waits(lease, "away again") == 0.0


def test_a_run_that_waits_is_not_due(recipe: Make, start: Start, database: Database) -> None:
    now = [1000.0]
    registry = Registry(database, clock=lambda: now[0])
    run = start(recipe())
    lease = registry.claim(run, "a")
    assert lease is not None
    assert registry.due() == {}
    registry.release(lease, delay=5)
    assert registry.due() == {}
    now[0] += 6
    assert list(registry.due()) == [run]


def test_a_wake_up_of_an_epoch_that_has_passed_wakes_nobody(recipe: Make, start: Start, registry: Registry) -> None:
    run = start(recipe())
    (epoch,) = registry.due().values()
    lease = registry.claim(run, "a", epoch=epoch)
    assert lease is not None
    registry.release(lease)
    assert registry.claim(run, "b", epoch=epoch) is None
    assert registry.claim(run, "b", epoch=registry.due()[run]) is not None


def test_the_run_that_was_left_alone_longest_is_due_first(recipe: Make, start: Start, database: Database) -> None:
    for run in ("old-1", "new-1"):
        start(recipe(), run)
    now = [time.time()]
    registry = Registry(database, clock=lambda: now[0])
    for attended, last in (("old-1", "new-1"), ("new-1", "old-1")):
        now[0] += 1
        lease = registry.claim(attended, "a")
        assert lease is not None
        registry.release(lease)
        now[0] += 1
        assert list(registry.due()) == [last, attended]


def test_an_unknown_run_is_an_error_everywhere(registry: Registry) -> None:
    for read in (registry.run, registry.state, lambda run: registry.ask(run, "pause")):
        with pytest.raises(UnknownRun):
            read("nobody")
    assert registry.claim("nobody", "a") is None


def test_a_run_id_names_one_recipe(recipe: Make, registry: Registry, start: Start) -> None:
    run = start(recipe())
    state, _ = registry.state(run)
    assert registry.create(run, recipe(), state.inputs) is False
    with pytest.raises(IdempotencyConflict):
        registry.create(run, recipe(seed=99), state.inputs)


def test_what_was_stored_is_what_comes_back(recipe: Make, registry: Registry, start: Start) -> None:
    plan = recipe(memory={"levels": ["insight"]}, method="pmd")
    state, attempts = registry.state(start(plan))
    assert state.recipe == plan
    assert isinstance(state.inputs, Inputs)
    assert state.inputs.train == tuple(f"train-{n}" for n in range(6))
    assert attempts == {}


def test_many_processes_may_create_the_tables_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    errors: list[Exception] = []

    def connect() -> None:
        try:
            REGISTRY.open(url).close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=connect) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_clock_that_is_set_back_holds_no_run(recipe: Make, start: Start, database: Database) -> None:
    now = [10_000.0]
    registry = Registry(database, clock=lambda: now[0])
    start(recipe())
    run = "demo-1"
    lease = registry.claim(run, "dead")
    assert lease is not None
    now[0] -= 3600.0
    again = registry.claim(run, "next")
    assert again is not None
    registry.release(again, delay=60.0)
    assert registry.claim(run, "early") is None
    now[0] -= 3600.0
    assert registry.claim(run, "later") is not None
