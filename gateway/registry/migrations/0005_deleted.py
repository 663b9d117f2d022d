"""Runs that were deleted: their ids are never given again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "deleted",
        sa.Column("run_id", sa.String(128), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )
