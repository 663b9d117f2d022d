"""`python -m pmd.services.memory reindex`: rebuild banks' index from the ledger, and check that the two are equal.

Reads the environment that the service reads. The service may run meanwhile: its searches see an index that is being
filled, and fill it too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pmd.services.common.settings import SettingsError, load_settings
from pmd.services.common.telemetry import configure_logging
from pmd.services.common.wire import Level
from pmd.services.memory.index.index import Index
from pmd.services.memory.index.search import LEVELS, Search, open_search
from pmd.services.memory.ledger import Ledger
from pmd.services.memory.settings import MemoryServiceSettings

WRITTEN_FOR: tuple[Level, ...] = ("behavior", "insight")
"""Levels that are always rebuilt; experience only where somebody has searched it."""


def differences(ledger: Ledger, index: Index, bank: str, level: Level) -> int:
    """Items that only one of ledger and index holds, or that they hold at different versions."""
    wanted = {item.id: item.version for item in ledger.active(bank, level)}
    return len(wanted.items() ^ index.versions(bank, level).items())


def reindex(ledger: Ledger, search: Search, bank: str, *, check_only: bool = False) -> dict[Level, int]:
    """Rebuild a bank's index, unless `check_only`; returns the differences that are left, by level.

    Raises:
        IndexDown: when the index is out of reach; what was done is done again by the next call.
    """
    index = search.index
    levels = [level for level in LEVELS if level in WRITTEN_FOR or index.seq(bank, level)]
    if not check_only:
        index.drop(bank)
    for level in levels:
        if not check_only:
            search.rebuild(bank, level)
    return {level: differences(ledger, index, bank, level) for level in levels}


def main(arguments: Sequence[str]) -> None:
    """Run the command; exit code 1 when a bank's index differs from the ledger at the end."""
    parser = argparse.ArgumentParser(prog="python -m pmd.services.memory reindex", description=__doc__)
    parser.add_argument("bank", nargs="*", help="banks to rebuild; all when none is named")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(MemoryServiceSettings)
    except SettingsError as error:
        sys.exit(f"memory: {error}")
    configure_logging("memory", "WARNING")
    ledger = Ledger(settings.ledger_url())
    search = open_search(ledger, settings)
    unknown = [bank for bank in given.bank if not ledger.seq(bank)]
    if unknown:
        sys.exit(f"no bank {', '.join(unknown)}; there are {', '.join(ledger.banks()) or 'none'}")
    equal = True
    try:
        for bank in given.bank or ledger.banks():
            for level, left in reindex(ledger, search, bank, check_only=given.check).items():
                equal &= not left
                seq = search.index.seq(bank, level)
                state = "equal to the ledger" if not left else f"{left} differences"
                sys.stdout.write(f"{bank} {level}: {search.index.name} at seq {seq}, {state}\n")
    finally:
        search.close()
    sys.exit(0 if equal else 1)
