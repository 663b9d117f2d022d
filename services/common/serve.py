"""Start a service with uvicorn: `python -m pmd.services.<name> --port N`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

import uvicorn
from fastapi import FastAPI

from pmd.services.common.settings import ServiceSettings, check_environment
from pmd.services.common.telemetry import configure_logging

S = TypeVar("S", bound=ServiceSettings)

PORTS = {"gateway": 8700, "rollout": 8701, "verifier": 8702, "memory": 8703, "trainer": 8704}
"""Default port of each service; `pmd.gateway.local.programs` moves them together when one is taken."""

DRAIN_S = 10


def serve(name: str, create_app: Callable[[S], FastAPI], settings: S) -> None:
    """Serve until SIGTERM, then drain open requests for at most `DRAIN_S` seconds.

    Raises:
        SettingsError: the environment holds a `PMD_` variable that this service doesn't know.
    """
    check_environment(type(settings))
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--port", type=int, default=PORTS[name])
    port = parser.parse_args().port
    configure_logging(name)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
