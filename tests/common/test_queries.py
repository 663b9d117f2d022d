"""Law 11 for queries: no route of any service ignores a key that it does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from pmd.gateway.api.app import create_app as create_gateway
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.app import known_query
from pmd.services.memory.app import create_app as create_memory
from pmd.services.memory.settings import MemoryServiceSettings
from pmd.services.rollout.app import create_app as create_rollout
from pmd.services.rollout.settings import RolloutSettings
from pmd.services.trainer.app import create_app as create_trainer
from pmd.services.trainer.settings import TrainerSettings
from pmd.services.verifier.app import create_app as create_verifier
from pmd.services.verifier.settings import VerifierSettings

LENIENT = {"/healthz", "/readyz", "/metrics", "/v1/chat/completions", "/v1/models", "/v1/services"}
"""Probes and OpenAI's routes, whose callers add keys of their own; the list of services stands beside the probes."""

SERVICES: dict[str, tuple[Callable[[Any], FastAPI], Callable[..., Any]]] = {
    "gateway": (create_gateway, GatewaySettings),
    "memory": (create_memory, MemoryServiceSettings),
    "rollout": (create_rollout, RolloutSettings),
    "trainer": (create_trainer, TrainerSettings),
    "verifier": (create_verifier, VerifierSettings),
}


@pytest.mark.parametrize("name", SERVICES)
def test_law_11_every_route_refuses_unknown_query_keys(name: str, tmp_path: Path) -> None:
    create, settings = SERVICES[name]
    app = create(settings(token="t" * 32, state_dir=tmp_path))
    routes = [r for r in app.routes if isinstance(r, APIRoute) and r.include_in_schema and r.path not in LENIENT]
    assert routes
    ignoring = [
        route.path
        for route in routes
        if known_query not in {dependency.call for dependency in route.dependant.dependencies}
    ]
    assert ignoring == []
