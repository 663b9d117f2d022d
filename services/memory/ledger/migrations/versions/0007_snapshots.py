"""People name moments of a bank."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "snapshots",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("bank", "name")),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
