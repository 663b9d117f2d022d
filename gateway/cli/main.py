"""The `pmd` command: its groups, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from pmd.gateway.cli import (
    backup,
    chat,
    compare,
    curate,
    dashboard,
    delete,
    doctor,
    export,
    fork,
    init,
    logs,
    memory,
    model,
    moments,
    quickstart,
    reproduce,
    runs,
    samples,
    serve,
    up,
    verify,
)
from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.output import errors
from pmd.gateway.local.programs import LaunchError
from pmd.gateway.local.supervisor import AlreadyRunning


class Root(typer.core.TyperGroup):
    """Shows expected errors as one clear line; anything else is a defect and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that has no arrow shows a question mark
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who reads our output has seen enough; typer ends quietly
        except (CliError, LaunchError, AlreadyRunning, OSError, UnicodeEncodeError) as error:
            errors.print(f"[red]error:[/] {escape(_said(error))}", soft_wrap=True)
            raise typer.Exit(getattr(error, "code", 1)) from error


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeEncodeError):
        text = ascii(error.object[error.start : error.end])
        return f"{text} can't be written as {error.encoding}; is the locale right (LANG)?"
    return str(error)


app = typer.Typer(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Procedural Memory Distillation: a model learns from its own verified attempts.\n\n"
    "Commands talk to the gateway that `pmd up` started in ./var (PMD_STATE_DIR), or to PMD_URL with PMD_TOKEN.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 -- only this answer needs it

        typer.echo(f"pmd {version('pmd')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)] = (
        False
    ),
) -> None:
    """What stands before a command."""


app.command("quickstart")(quickstart.quickstart)
app.command("init")(init.init)
app.command("up")(up.up)
app.command("down")(up.down)
app.command("status")(up.status)
app.command("doctor")(doctor.doctor)
app.command("logs")(logs.logs)
app.command("dashboard")(dashboard.dashboard)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
runs.app.add_typer(samples.app)
runs.app.add_typer(delete.app)
runs.app.add_typer(fork.app)
app.add_typer(runs.app, name="runs")
app.command("compare")(compare.compare)
memory.app.add_typer(curate.app)
memory.app.add_typer(moments.app)
app.add_typer(memory.app, name="memory")
app.command("verify")(verify.verify)
app.command("reverify")(verify.reverify)
app.command("chat")(chat.chat)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("model")(model.model)
app.command("reproduce")(reproduce.reproduce)

if __name__ == "__main__":
    app(prog_name="pmd")
