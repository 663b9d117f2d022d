"""The registry's schema: its migrations are in `migrations`."""

from __future__ import annotations

from pathlib import Path

from pmd.services.common.schema import Schema

REGISTRY = Schema(
    name="run registry",
    migrations=Path(__file__).parent / "migrations",
    version_table="registry_version",
    lock=0x504D44,  # "PMD"
)
