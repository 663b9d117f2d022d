"""Serve the gateway: `python -m gateway --port 8700`."""

from __future__ import annotations

from gateway.app import create_app
from gateway.settings import GatewaySettings
from services.common.serve import serve

serve("gateway", create_app, GatewaySettings())
