"""Bringing a database to the schema of this release, whatever release it comes from.

Invariants:
- Migrations run in one transaction, one process at a time: a database is at the old schema or at the new one.
- A database that carries no revision was made before there were migrations, at the schema of the first of them, which
  therefore takes over what it finds.
- A database that a newer release has upgraded is refused, and nothing in it is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from pmd.services.common.sql import Database

_ENVIRONMENT = Path(__file__).parent / "migrations"


class SchemaTooNew(RuntimeError):
    """The database was written by a newer release."""


@dataclass(frozen=True)
class Schema:
    """The tables of one part of the project and the migrations that lead to them."""

    name: str
    """What people call it."""
    migrations: Path
    """Folder of its revisions."""
    version_table: str
    """Table that holds the revision: one per schema, so that several may live in one database."""
    lock: int
    """Number of the Postgres advisory lock that migrations run under; one per schema."""

    def open(self, url: str) -> Database:
        """The database at `url`, its tables made or upgraded.

        Raises:
            SchemaTooNew: when a newer release wrote it.
        """
        return Database(url, self.upgrade, lock=self.lock)

    def upgrade(self, db: sa.Connection) -> None:
        """Create the tables or upgrade them, in the caller's transaction.

        Raises:
            SchemaTooNew: when the database is at a revision that this release does not know.
        """
        config = Config()
        config.set_main_option("script_location", _escaped(_ENVIRONMENT))
        config.set_main_option("version_locations", _escaped(self.migrations))
        config.set_main_option("path_separator", "newline")
        config.attributes |= {"connection": db, "version_table": self.version_table}
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision for script in scripts.walk_revisions()}
        current = MigrationContext.configure(db, opts={"version_table": self.version_table}).get_current_revision()
        if current is not None and current not in known:
            raise SchemaTooNew(
                f"the {self.name} at {db.engine.url.render_as_string()} is at schema {current!r}, this release knows up"
                f" to {scripts.get_current_head()!r}; start the newer release again, or restore a backup from before it"
            )
        if current != scripts.get_current_head():
            command.upgrade(config, "head")


def _escaped(path: Path) -> str:
    """A path as Alembic's configuration reads it, where a percent sign begins a substitution."""
    return str(path).replace("%", "%%")
