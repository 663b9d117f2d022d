"""`python -m services.rollout --port 8701`."""

from __future__ import annotations

from services.common.serve import serve
from services.rollout.app import create_app
from services.rollout.settings import RolloutSettings

if __name__ == "__main__":
    serve("rollout", create_app, RolloutSettings())
