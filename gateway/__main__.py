"""Serve the gateway: `python -m pmd.gateway --port 8700`."""

from __future__ import annotations

from pmd.gateway.api.app import create_app
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.serve import serve

if __name__ == "__main__":
    serve("gateway", create_app, GatewaySettings)
