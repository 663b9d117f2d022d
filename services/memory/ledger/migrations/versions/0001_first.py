"""The ledger of the first release. Its databases carry no revision: their tables are taken over as they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _int(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _key(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String, primary_key=True) for name in names]


def _seq() -> sa.Column[int]:
    return sa.Column("seq", sa.BigInteger, nullable=False)


def upgrade() -> None:
    op.create_table("banks", *_key("bank"), _seq(), if_not_exists=True)
    op.create_table("writes", *_key("bank", "key"), if_not_exists=True)
    op.create_table("problems", *_key("bank", "problem_id"), _text("body"), if_not_exists=True)
    op.create_table(
        "items",
        *_key("bank", "id"),
        *(sa.Column(name, sa.String, nullable=False) for name in ("level", "kind", "scope", "status")),
        _text("text"),
        _int("version"),
        _seq(),
        _int("step"),
        _int("policy_version"),
        _text("facts"),
        if_not_exists=True,
    )
    op.create_table(
        "versions",
        *_key("bank", "id"),
        sa.Column("version", sa.Integer, primary_key=True),
        _seq(),
        _int("step"),
        _text("text"),
        sa.Column("status", sa.String, nullable=False),
        _text("facts"),
        sa.Column("actor", sa.String, nullable=False),
        if_not_exists=True,
    )
