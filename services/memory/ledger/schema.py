"""Bringing a ledger's database to the schema of this release, whatever release it comes from."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

_MIGRATIONS = Path(__file__).parent / "migrations"

LOCK = 0x504D444D  # "PMDM"


class LedgerTooNew(RuntimeError):
    """The database was written by a newer release."""


def upgrade(db: sa.Connection) -> None:
    """Create the schema or upgrade it, in the caller's transaction.

    Raises:
        LedgerTooNew: when the database is at a revision that this release does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = db
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    current = MigrationContext.configure(db).get_current_revision()
    if current is not None and current not in known:
        raise LedgerTooNew(
            f"the memory ledger at {db.engine.url.render_as_string()} is at schema {current!r}, this release knows up "
            f"to {scripts.get_current_head()!r}; start the newer release again, or restore a backup from before it"
        )
    if current != scripts.get_current_head():
        command.upgrade(config, "head")
