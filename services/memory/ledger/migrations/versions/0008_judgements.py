"""What a model said of pairs of notes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "judgements",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("bank", "low", "high")),
        sa.Column("apart", sa.Boolean, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("model", sa.String, nullable=False),
    )
