"""Full-text search on Postgres finds the words that it finds on SQLite, whatever punctuation joins them."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

PUNCTUATION = """!"#$%&''()*+,-./:;<=>?@[\\]^_`{|}~"""
ACCENTS = "".join(map(chr, range(0x300, 0x370)))


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    op.execute("DROP INDEX items_by_words")
    plain = f"translate(left(normalize(text, NFD), 200000), '{PUNCTUATION}{ACCENTS}', repeat(' ', 32))"
    op.execute(f"CREATE INDEX items_by_words ON items USING gin (to_tsvector('simple', {plain}))")
