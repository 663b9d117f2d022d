"""The registry of the first release. Its databases carry no revision: their tables are taken over as they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str, length: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length) if length else sa.Text(), nullable=nullable)


def _int(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _seconds(name: str, *, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float, nullable=nullable)


def _run() -> sa.Column[str]:
    return sa.Column("run_id", sa.String(128), sa.ForeignKey("runs.id"), primary_key=True)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(128), primary_key=True),
        _text("name", 128),
        _text("method", 32),
        _text("status", 16),
        _text("desired", 16),
        _text("recipe"),
        _text("recipe_hash", 64),
        sa.Column("idempotency_key", sa.String(200), unique=True),
        _text("inputs"),
        _int("step"),
        _int("steps"),
        _int("version"),
        _int("epoch"),
        _text("lease_owner", 200, nullable=True),
        _seconds("lease_until"),
        _seconds("due"),
        _seconds("waiting_since", nullable=True),
        _text("error", nullable=True),
        _seconds("created"),
        _seconds("updated"),
        if_not_exists=True,
    )
    op.create_index("runs_by_age", "runs", ["created", "id"], if_not_exists=True)
    op.create_index("runs_by_status", "runs", ["status"], if_not_exists=True)
    op.create_table(
        "phases",
        _run(),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(200), nullable=False, unique=True),
        _text("service", 16),
        _text("status", 16),
        _text("request_hash", 64),
        _text("result", nullable=True),
        _text("facts", nullable=True),
        _text("error", nullable=True),
        _seconds("seconds", nullable=True),
        _seconds("submitted"),
        _seconds("ended", nullable=True),
        if_not_exists=True,
    )
    op.create_table(
        "events",
        _run(),
        sa.Column("seq", sa.Integer, primary_key=True),
        _seconds("ts"),
        _text("type", 32),
        _text("payload"),
        if_not_exists=True,
    )
    op.create_table(
        "artifacts",
        _run(),
        sa.Column("uri", sa.String(1024), primary_key=True),
        _int("step"),
        _text("kind", 32),
        _int("version", nullable=True),
        _text("sha256", 64),
        _int("bytes", nullable=True),
        _int("rows", nullable=True),
        if_not_exists=True,
    )
