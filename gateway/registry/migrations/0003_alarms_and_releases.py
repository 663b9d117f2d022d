"""Alarms of runs, and the calls that an ended run owes to services; recipes are compared as they are, not by hash."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_column("runs", "recipe_hash")
    op.create_table(
        "alarms",
        sa.Column("run_id", sa.String(128), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("run_id", sa.String(128), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("service", sa.String(16), primary_key=True),
        sa.Column("job", sa.String(200), primary_key=True),
        sa.Column("due", sa.Float, nullable=False),
    )
