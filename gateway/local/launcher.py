"""Starting, watching and stopping an installation on one machine; `pmd.gateway.local.programs` says what it runs.

Invariants:
- The token is made once per state folder, and is readable by its owner only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pmd.gateway.local.programs import LaunchError, build_programs, choose_ports, index_in_force, inherited
from pmd.gateway.local.supervisor import AlreadyRunning, Supervisor, end_leftovers, hold, is_held, read_state
from pmd.services.common import outgoing

START_PATIENCE_S = 120.0
"""How long a supervisor that lives may take to start its programs; on a busy machine Python alone takes half of it."""
STOP_PATIENCE_S = 40.0
"""How long it may take to end them."""
PROBE_TIMEOUT_S = 2.0
PROBE_EVERY_S = 0.2
SETTLED_S = 3.0
"""A process without an address is ready when it has lived this long."""
HOPELESS_RESTARTS = 4
"""A service that ended this often before it was ready has a fault that waiting does not mend."""


@dataclass(frozen=True)
class Health:
    """What a service answers at this moment."""

    ready: bool
    details: dict[str, Any]
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
    from pmd.services.common.tokens import TOKEN_CHARS  # noqa: PLC0415 - loads httpx, which the command line does not

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


def supervise(state_dir: Path, when_up: Callable[[], None] = lambda: None, index: str | None = None) -> None:
    """Run the installation in this process until SIGTERM or SIGINT; `when_up` is called once all are started.

    Raises:
        AlreadyRunning: when it runs already.
    """
    os.umask(0o077)  # problems hold hidden tests, runs and registry what was made of them
    with hold(state_dir):  # refuse before ports are chosen: another installation's own ports would only look taken
        token = ensure_token(state_dir)  # here, or of two that start at once each makes its own, and the file has one
        end_leftovers(state_dir)
        state_dir.chmod(0o700)
    ports = choose_ports()
    index = index_in_force(index)
    programs = build_programs(state_dir, ports, token, index)
    details = {"started": time.time(), "url": f"http://127.0.0.1:{ports['gateway']}", "index": index}
    supervisor = Supervisor(state_dir, programs, details)
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
    options = (
        "-P",
        "-m",
        "pmd.gateway.local.launcher",
        "--state-dir",
        str(state_dir),
        "--index",
        index_in_force(index),
    )
    with log_path.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, *options],
            env=inherited(os.environ),
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
            process.kill()  # its reaper ends the rest
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
        with outgoing.inside(timeout=PROBE_TIMEOUT_S) as client:
            answer = client.get(f"{service['url']}{service['ready']}")
        details = answer.json() if answer.content else {}
    except (httpx.TransportError, ValueError) as error:
        return Health(False, {}, f"{name} does not answer yet ({type(error).__name__})")
    if answer.status_code == httpx.codes.OK:
        return Health(True, details)
    return Health(False, details, str(details.get("title", f"HTTP {answer.status_code}")))


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
    if state is None and not (state_dir / "up.json").exists():
        return False
    if state is None:
        with hold(state_dir):
            return bool(end_leftovers(state_dir))
    for sign, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], sign)  # killed hard, its reaper ends the rest
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
    """`python -m pmd.gateway.local.launcher`: the supervisor process."""
    parser = argparse.ArgumentParser(prog="pmd.gateway.local.launcher", description=__doc__)
    parser.add_argument("--state-dir", type=Path, default=default_state_dir())
    parser.add_argument("--index", default=None)
    given = parser.parse_args()
    try:
        supervise(given.state_dir.absolute(), index=given.index)
    except (AlreadyRunning, LaunchError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
