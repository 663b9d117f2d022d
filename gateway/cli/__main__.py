"""`python -m pmd.gateway.cli` is `pmd`."""

from __future__ import annotations

from pmd.gateway.cli.main import app

app(prog_name="pmd")
