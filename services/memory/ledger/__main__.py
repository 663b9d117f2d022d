"""Bring the memory ledger to the schema of this release: `python -m pmd.services.memory.ledger`.

The memory service does the same when it starts. On its own it says whether an upgrade will work before anything is
replaced.
"""

from __future__ import annotations

import sys

from pmd.services.common.schema import SchemaTooNew
from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.sql import Busy
from pmd.services.memory.ledger.schema import LEDGER
from pmd.services.memory.settings import MemoryServiceSettings

if __name__ == "__main__":
    try:
        database = LEDGER.open(load_settings(MemoryServiceSettings).ledger_url())
        database.check()
        database.close()
    except (SettingsError, SchemaTooNew, Busy) as error:
        sys.exit(f"ledger: {error}")
