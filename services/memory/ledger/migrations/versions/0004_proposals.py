"""What a proposal would do is called its action."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE proposals RENAME COLUMN wish TO action")
