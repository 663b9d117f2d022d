"""The ledger's schema: its migrations are in `migrations/versions`."""

from __future__ import annotations

from pathlib import Path

from pmd.services.common.schema import Schema

LEDGER = Schema(
    name="memory ledger",
    migrations=Path(__file__).parent / "migrations" / "versions",
    version_table="alembic_version",
    lock=0x504D444D,  # "PMDM"
)
