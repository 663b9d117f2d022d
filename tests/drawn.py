"""Requests drawn by schemathesis from a service's published OpenAPI document: the same cases in every run."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

schemathesis.serializer.alias("application/x-ndjson", "text/plain")

TAKEN = ("method", "url", "params", "headers", "json", "content", "data")
"""What of schemathesis' request our client takes."""


def quick(examples: int) -> settings:
    """Few examples, derandomised, never timed: what a shared machine can repeat."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def operations(document: dict[str, Any], skipped: Collection[str] = ()) -> Iterator[Any]:
    """Every operation with valid requests, and with invalid ones where it takes anything that can be wrong."""
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            if operation.path not in skipped and (mode.is_positive or "{" in operation.path or operation.body):
                yield pytest.param(operation, mode, id=f"{mode.value}-{operation.label}")


def request_of(case: Any, token: str) -> dict[str, Any]:
    """What our client is to send for a drawn case."""
    drawn = case.as_transport_kwargs(base_url="http://testserver")
    drawn["headers"] = {**drawn.get("headers", {}), "Authorization": f"Bearer {token}"}
    return {name: value for name, value in drawn.items() if name in TAKEN}
