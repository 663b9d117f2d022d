"""Start a service with uvicorn: `python -m pmd.services.<name> --port N`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TypeVar

import uvicorn
from fastapi import FastAPI

from pmd.services.common.protocol import Connection
from pmd.services.common.settings import ServiceSettings, SettingsError, load_settings
from pmd.services.common.telemetry import configure_logging

S = TypeVar("S", bound=ServiceSettings)

PORTS = {"gateway": 8700, "rollout": 8701, "verifier": 8702, "memory": 8703, "trainer": 8704}
"""Default port of each service; `pmd.gateway.local.programs` moves them together when one is taken."""

DRAIN_S = 10


def serve(name: str, create_app: Callable[[S], FastAPI], settings: type[S]) -> None:
    """Serve until SIGTERM, then drain open requests for at most `DRAIN_S` seconds.

    Settings that are missing, wrong, unknown, or can't be met here end the process with one sentence and code 1.
    """
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--port", type=int, default=PORTS[name])
    port = parser.parse_args().port
    try:
        given = load_settings(settings)
        configure_logging(name)
        app = create_app(given)
    except SettingsError as error:
        sys.exit(f"{name}: {error}")
    run(app, given.host, port)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve an application until SIGTERM or SIGINT, as all services are served."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=Connection,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
        # Said here, or uvicorn asks the environment (WEB_CONCURRENCY, FORWARDED_ALLOW_IPS).
        workers=1,
        proxy_headers=False,
        forwarded_allow_ips="",
    )
