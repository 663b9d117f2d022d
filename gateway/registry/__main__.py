"""Bring the run registry to the schema of this release: `python -m pmd.gateway.registry`.

The gateway does the same when it starts. On its own it says whether an upgrade will work before anything is replaced.
A server that is away is waited for, for a minute.
"""

from __future__ import annotations

import sys

from pmd.gateway.registry.schema import REGISTRY
from pmd.gateway.settings import GatewaySettings
from pmd.services.common.schema import SchemaTooNew
from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.sql import MIGRATION_PATIENCE_S, Busy

if __name__ == "__main__":
    try:
        database = REGISTRY.open(load_settings(GatewaySettings).database())
        database.wait(MIGRATION_PATIENCE_S)
        database.close()
    except (SettingsError, SchemaTooNew, Busy) as error:
        sys.exit(f"registry: {error}")
