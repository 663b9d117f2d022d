"""`python -m pmd.services.rollout --port 8701`."""

from __future__ import annotations

from pmd.services.common.serve import serve
from pmd.services.rollout.app import create_app
from pmd.services.rollout.settings import RolloutSettings

if __name__ == "__main__":
    serve("rollout", create_app, RolloutSettings)
