"""Clusters that wait for their rules are found without reading the sums of all."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index("clusters_by_behind", "clusters", ["bank", "behind", "id"])
