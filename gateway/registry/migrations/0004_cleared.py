"""A phase's status that a resume has cleared is named so; it was `forgiven`."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("UPDATE phases SET status = 'cleared' WHERE status = 'forgiven'")
