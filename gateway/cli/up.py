"""`pmd up | down | status`: the installation on this machine."""

from __future__ import annotations

import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.output import AsJson, console, errors, print_json, print_table, table
from pmd.gateway.local import launcher, programs, weaviate
from pmd.gateway.local.supervisor import read_state

StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir", envvar="PMD_STATE_DIR", default_factory=launcher.default_state_dir, show_default="./var"
    ),
]


class Index(StrEnum):
    """What finds memories by meaning."""

    EXACT = "exact"
    WEAVIATE = "weaviate"


def start_services(state_dir: Path, index: str | None = None) -> bool:
    """Start the services unless they run. True when this call started them."""
    programs.check_settings(state_dir, programs.index_in_force(index))
    running = read_state(state_dir)
    if running is not None and index not in {None, running["index"]}:
        raise CliError(f"the services run with --index {running['index']}; `pmd down` first to change that")
    if running is not None:
        return False
    if broker := programs.callers_redis():
        programs.check_redis(broker)
    _ensure_server(programs.index_in_force(index))
    console.print(f"starting the services in {state_dir}", soft_wrap=True)
    return launcher.start_detached(state_dir, index)


def await_services(state_dir: Path, timeout_s: float) -> None:
    """Wait until all services are ready."""
    names = []
    with console.status("waiting for the services") as waiting:
        for name, seconds in launcher.wait_ready(state_dir, timeout_s):
            names.append(f"{name} {seconds:.0f} s")
            waiting.update(f"ready: {', '.join(names)}")
    state = read_state(state_dir)
    if state is None:
        raise CliError(f"the services stopped while they started; look at {state_dir / 'logs'}")
    console.print(f"ready at {state['url']}; `pmd dashboard` prints a link that signs a browser in", soft_wrap=True)


def _ensure_server(index: str) -> None:
    """Build the Weaviate server that this installation is to run, unless it is built."""
    if not programs.runs_weaviate(index) or weaviate.BINARY.exists():
        return
    console.print(f"building Weaviate {weaviate.VERSION} with Go: about five minutes, once")
    try:
        weaviate.build()
    except weaviate.CannotBuild as error:
        raise CliError(str(error)) from error


def up(
    state_dir: StateDir,
    index: Annotated[
        Index | None,
        typer.Option(
            help="What finds memories by meaning. A Weaviate is built and started unless PMD_WEAVIATE_URL names one."
        ),
    ] = None,
    foreground: Annotated[bool, typer.Option(help="Stay until Ctrl-C; for containers and systemd.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for all services to be ready.")] = 180.0,
) -> None:
    """Start all services on this machine and return when they are ready."""
    state_dir = state_dir.absolute()
    if not foreground:
        started = start_services(state_dir, index)
        try:
            await_services(state_dir, timeout)
        except KeyboardInterrupt:
            if started and launcher.stop(state_dir):
                console.print("\ninterrupted; the services that this command started are stopped")
            raise typer.Exit(130) from None
        except programs.LaunchError as error:
            rest = "\nwhat did start keeps running; `pmd down` stops it" if read_state(state_dir) else ""
            raise CliError(f"{error}{rest}") from error
        return
    programs.check_settings(state_dir, programs.index_in_force(index))
    _ensure_server(programs.index_in_force(index))

    def announce() -> None:
        try:
            for name, seconds in launcher.wait_ready(state_dir, timeout):
                console.print(f"{name} ready after {seconds:.1f} s")
        except programs.LaunchError as error:
            errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)

    # The supervisor has this thread, where signals arrive.
    launcher.supervise(state_dir, lambda: threading.Thread(target=announce, daemon=True).start(), index)


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
            name: {
                **service,
                "ready": health[name].ready,
                "problem": health[name].problem,
                "details": health[name].details,
            }
            for name, service in state["services"].items()
        }
        print_json({**state, "services": merged})
    else:
        rows = table("service", "ready", "pid", "restarts", "url", "profile")
        for name, service in state["services"].items():
            ok = health[name]
            details = {k: v for k, v in ok.details.items() if k not in {"status", "service", "title"}}
            about = ", ".join(f"{k} {v}" for k, v in details.items() if isinstance(v, str | int | float))
            word = "[green]yes[/]" if ok.ready else "[red]no[/]"
            rows.add_row(
                name, word, str(service["pid"]), str(service["restarts"]), service["url"], escape(ok.problem or about)
            )
        print_table(rows)
    if not all(each.ready for each in health.values()):
        raise typer.Exit(1)
