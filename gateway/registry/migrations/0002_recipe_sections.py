"""Stored recipes have the sections objective, optimizer and hardware, and no key called alpha."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOVED = {
    "objective": (
        "top_k",
        "tail",
        "is_clip",
        "tis_clip",
        "clip_low",
        "clip_high",
        "dual_clip",
        "max_prompt_tokens",
        "max_teacher_tokens",
    ),
    "hardware": ("micro_tokens", "precision", "zero_stage", "checkpoint_every"),
}
RENAMED = (
    ("optimizer", "alpha", "objective", "divergence_alpha"),
    ("retrieval", "alpha", "retrieval", "vector_weight"),
)
RUNS = sa.table("runs", sa.column("id"), sa.column("recipe"))


def _moved(recipe: dict[str, Any]) -> dict[str, Any]:
    moves = [("optimizer", key, section, key) for section, keys in MOVED.items() for key in keys]
    for section, key, to_section, to_key in (*moves, *RENAMED):
        if key in recipe.get(section, {}):
            recipe.setdefault(to_section, {})[to_key] = recipe[section].pop(key)
    return recipe


def upgrade() -> None:
    db = op.get_bind()
    for run, stored in db.execute(sa.select(RUNS.c.id, RUNS.c.recipe)).all():
        recipe = _moved(json.loads(stored))
        text = json.dumps(recipe, ensure_ascii=False, separators=(",", ":"))
        db.execute(sa.update(RUNS).where(RUNS.c.id == run).values(recipe=text))
