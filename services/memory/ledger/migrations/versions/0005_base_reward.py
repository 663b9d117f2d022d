"""A use of a note knows what attempts without memory were rewarded with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("uses", sa.Column("base", sa.Float, nullable=True))
