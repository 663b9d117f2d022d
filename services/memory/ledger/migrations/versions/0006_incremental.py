"""A step reads what it needs: banks know their sizes, problems when they came, and clusters are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

LEVELS = ("experience", "insight", "behavior")


def _number(name: str, kind: type[sa.types.TypeEngine[int]] = sa.Integer) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default="0")


def upgrade() -> None:
    for level in LEVELS:
        op.add_column("banks", _number(level))
        op.execute(
            f"UPDATE banks SET {level} = (SELECT count(*) FROM items WHERE items.bank = banks.bank"  # noqa: S608
            f" AND items.level = '{level}' AND items.status = 'active')"
        )
    op.add_column("banks", _number("clustered", sa.BigInteger))
    op.add_column("problems", _number("seq", sa.BigInteger))
    op.create_index("problems_by_seq", "problems", ["bank", "seq", "problem_id"])
    op.create_index("uses_by_step", "uses", ["bank", "step"])
    notes = sa.text("level <> 'experience' AND status = 'active'")
    op.create_index("items_by_step", "items", ["bank", "step"], sqlite_where=notes, postgresql_where=notes)
    op.create_table(
        "clusters",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("bank", "id")),
        sa.Column("embedder", sa.String, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("sum", sa.LargeBinary, nullable=False),
        sa.Column("behind", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "members",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("bank", "problem_id")),
        sa.Column("cluster", sa.String, nullable=True),
        sa.Column("step", sa.Integer, nullable=True),
    )
    op.create_index("members_by_cluster", "members", ["bank", "cluster", "step", "problem_id"])
