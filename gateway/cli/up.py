"""`pmd up | down | status`: the installation on this machine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gateway import launcher
from gateway.cli.client import CliError
from gateway.cli.output import AsJson, console, errors, print_json, table
from gateway.supervisor import read_state

StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir", envvar="PMD_STATE_DIR", default_factory=launcher.default_state_dir, show_default="./var"
    ),
]


def bring_up(state_dir: Path, timeout_s: float) -> bool:
    """Start the services unless they run, and wait until all are ready. True when this call started them."""
    started = read_state(state_dir) is None
    if started:
        console.print(f"starting the services in {state_dir}")
        launcher.start_detached(state_dir)
    names = []
    with console.status("waiting for the services") as waiting:
        for name, seconds in launcher.wait_ready(state_dir, timeout_s):
            names.append(f"{name} {seconds:.0f} s")
            waiting.update(f"ready: {', '.join(names)}")
    state = read_state(state_dir)
    if state is None:
        raise CliError(f"the services stopped while they started; look at {state_dir / 'logs'}")
    console.print(f"ready at {state['url']}", soft_wrap=True)
    return started


def up(
    state_dir: StateDir,
    foreground: Annotated[bool, typer.Option(help="Stay until Ctrl-C; for containers and systemd.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for all services to be ready.")] = 180.0,
) -> None:
    """Start all services on this machine and return when they are ready."""
    state_dir = state_dir.absolute()
    if not foreground:
        bring_up(state_dir, timeout)
        return

    def announce() -> None:
        try:
            for name, seconds in launcher.wait_ready(state_dir, timeout):
                console.print(f"{name} ready after {seconds:.1f} s")
        except launcher.LaunchError as error:
            errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)

    # The supervisor has this thread, where signals arrive.
    launcher.supervise(state_dir, when_up=lambda: threading.Thread(target=announce, daemon=True).start())


def down(state_dir: StateDir) -> None:
    """Stop all services: gracefully, then hard. Runs go on where they were at the next `pmd up`."""
    stopped = launcher.stop(state_dir.absolute())
    console.print("stopped" if stopped else f"nothing runs in {state_dir}")


def status(state_dir: StateDir, as_json: AsJson = False) -> None:
    """Show each service: process, address, readiness, profile. Exit code 1 unless all are ready."""
    state_dir = state_dir.absolute()
    state = read_state(state_dir)
    if state is None:
        raise CliError(f"nothing runs in {state_dir}; start it with `pmd up`")
    health = {name: launcher.probe(name, service) for name, service in state["services"].items()}
    if as_json:
        merged = {
            name: {**service, "ready": health[name].ready, "problem": health[name].problem, "facts": health[name].facts}
            for name, service in state["services"].items()
        }
        print_json({**state, "services": merged})
    else:
        rows = table("service", "ready", "pid", "restarts")
        rows.add_column("url", no_wrap=True)
        rows.add_column("profile", overflow="fold")
        for name, service in state["services"].items():
            ok = health[name]
            facts = {k: v for k, v in ok.facts.items() if k not in {"status", "service", "title"}}
            about = ", ".join(f"{k} {v}" for k, v in facts.items() if isinstance(v, str | int | float))
            word = "[green]yes[/]" if ok.ready else "[red]no[/]"
            rows.add_row(
                name, word, str(service["pid"]), str(service["restarts"]), service["url"], escape(ok.problem or about)
            )
        console.print(rows)
    if not all(each.ready for each in health.values()):
        raise typer.Exit(1)
