"""Sign-in codes that were used: once for all replicas of the gateway."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "used_codes",
        sa.Column("code", sa.String(64), primary_key=True),
        sa.Column("ends", sa.Float, nullable=False),
    )
