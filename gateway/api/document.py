"""The contract of the API as a file, which the dashboard's types are made of: `python -m pmd.gateway.api.document`.

Texts and examples are left out: they change often, and no type depends on them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pmd.gateway.api.app import create_app
from pmd.gateway.settings import GatewaySettings

TEXTS = frozenset({"description", "summary", "title", "example", "examples", "tags", "info"})


def contract() -> dict[str, Any]:
    """The OpenAPI document without its texts."""
    with tempfile.TemporaryDirectory() as folder:
        settings = GatewaySettings(token="0" * 16, state_dir=Path(folder))
        document = create_app(settings, wake=lambda _: None).openapi()
    bare: dict[str, Any] = _bare(document, names=False)
    return bare | {"info": {"title": "pmd gateway", "version": "1"}}


def _bare(value: Any, *, names: bool) -> Any:
    """`value` without texts; `names`: the keys are names that people chose, and none of them is a text."""
    if isinstance(value, list):
        return [_bare(each, names=False) for each in value]
    if not isinstance(value, dict):
        return value
    mapped = {"properties", "paths", "schemas", "responses", "securitySchemes"}
    return {
        key: _bare(each, names=key in mapped and not names) for key, each in value.items() if names or key not in TEXTS
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(contract(), indent=1, sort_keys=True) + "\n")
