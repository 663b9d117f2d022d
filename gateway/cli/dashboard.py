"""`pmd dashboard`: a link that opens the dashboard signed in."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from pmd.gateway.cli.client import connect
from pmd.gateway.cli.output import console


def dashboard(
    open_: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser, too.")] = False,
) -> None:
    """Print a link to the dashboard that signs one browser in, once, within a minute."""
    gateway = connect()
    code = gateway.post("/v1/session:code")["code"]
    link = f"{gateway.url}/#code={code}"  # behind the #, so that it is in no log
    console.print(link, soft_wrap=True, markup=False)
    if open_:
        webbrowser.open(link)
