"""Bring the memory ledger to the schema of this release: `python -m pmd.services.memory.ledger`.

The memory service does the same when it starts. On its own it says whether an upgrade will work before anything is
replaced. A server that is away is waited for, for a minute.
"""

from __future__ import annotations

import sys

from pmd.services.common.schema import SchemaTooNew
from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.sql import MIGRATION_PATIENCE_S, Busy
from pmd.services.memory.ledger.schema import LEDGER
from pmd.services.memory.settings import MemoryServiceSettings

if __name__ == "__main__":
    try:
        database = LEDGER.open(load_settings(MemoryServiceSettings).ledger_url())
        database.wait(MIGRATION_PATIENCE_S)
        database.close()
    except (SettingsError, SchemaTooNew, Busy) as error:
        sys.exit(f"ledger: {error}")
