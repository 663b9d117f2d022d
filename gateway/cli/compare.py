"""`pmd compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.output import AsJson, console, known_runs, print_json, print_table, run_id


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN...", help="Ids of the runs.", parser=run_id, autocompletion=known_runs),
    ],
    html: Annotated[Path | None, typer.Option(help="Write a page with the learning curves here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: scores before and after, learning curves, time."""
    if len(runs) < 2:
        raise CliError("a comparison needs two runs or more; see `pmd runs list`", code=2)
    gateway = connect()
    raw = [gateway.get(f"/v1/runs/{run}/report") for run in runs]
    if as_json:
        print_json(raw)
        return
    from pmd.gateway.cli.report import render_compare_terminal  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.report import render_compare  # noqa: PLC0415 - loads pyarrow
    from pmd.gateway.views import ReportView  # noqa: PLC0415

    views = [ReportView.model_validate(each) for each in raw]
    print_table(render_compare_terminal(views))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(render_compare(views), encoding="utf-8")
        console.print(f"page: {html}", soft_wrap=True)
