"""What people do: pins, edits, bans, proposals, annotations, audit, provenance, full-text search."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from pmd.services.memory.ledger.items import fingerprint

revision = "0002"
down_revision = "0001"

PORTION = 1000


def _key(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, primary_key=True) for name in names]


def _col(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.String, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def _flags() -> list[sa.Column[Any]]:
    return [_col("pinned", sa.Boolean), _col("edited", sa.Boolean)]


def upgrade() -> None:
    with op.batch_alter_table("banks") as banks:
        banks.add_column(sa.Column("created", sa.Float, nullable=False, server_default="0"))
    with op.batch_alter_table("writes") as writes:
        writes.add_column(_col("digest", null=True))
        writes.add_column(_col("answer", sa.Text, null=True))
    _items()
    _versions()
    _new_tables()
    _search()


def _items() -> None:
    """Rows get a number that search can refer to, and a fingerprint."""
    op.execute("DROP INDEX IF EXISTS items_by_scope")
    op.execute("DROP INDEX IF EXISTS items_by_seq")
    op.rename_table("items", "items_0001")
    op.create_table(
        "items",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *(_col(name) for name in ("bank", "id", "level", "kind", "scope")),
        _col("text", sa.Text),
        _col("fingerprint"),
        _col("status"),
        *_flags(),
        _col("version", sa.Integer),
        _col("seq", sa.BigInteger),
        _col("step", sa.Integer),
        _col("policy_version", sa.Integer),
        _col("facts", sa.Text),
    )
    db = op.get_bind()
    names = [
        "bank",
        "id",
        "level",
        "kind",
        "scope",
        "text",
        "status",
        "version",
        "seq",
        "step",
        "policy_version",
        "facts",
    ]
    old = sa.table("items_0001", *map(sa.column, names))
    new = sa.table("items", *map(sa.column, (*names, "fingerprint", "pinned", "edited")))
    after = ("", "")
    while rows := db.execute(
        sa.select(old)
        .where(sa.tuple_(old.c.bank, old.c.id) > sa.tuple_(*map(sa.literal, after)))
        .order_by(old.c.bank, old.c.id)
        .limit(PORTION)
    ).all():
        extra = {"pinned": False, "edited": False}
        db.execute(sa.insert(new), [dict(r._mapping) | extra | {"fingerprint": fingerprint(r.text)} for r in rows])
        after = (rows[-1].bank, rows[-1].id)
    op.drop_table("items_0001")
    op.create_index("items_by_id", "items", ["bank", "id"], unique=True)
    op.create_index("items_by_scope", "items", ["bank", "level", "status", "scope"])
    op.create_index("items_by_seq", "items", ["bank", "seq", "id"])
    settled = sa.text("pinned OR edited OR status IN ('banned', 'superseded')")
    op.create_index("items_settled", "items", ["bank"], sqlite_where=settled, postgresql_where=settled)


def _versions() -> None:
    """Versions say who and what; attempts get a version row for the state that they are in."""
    op.rename_table("versions", "versions_0001")
    op.create_table(
        "versions",
        *_key("bank", "id"),
        sa.Column("version", sa.Integer, primary_key=True),
        _col("seq", sa.BigInteger),
        _col("step", sa.Integer),
        _col("kind"),
        _col("text", sa.Text, null=True),
        _col("facts", sa.Text, null=True),
        _col("status"),
        *_flags(),
        _col("policy_version", sa.Integer),
        _col("actor"),
        _col("by_person", sa.Boolean),
    )
    op.execute(
        "INSERT INTO versions SELECT v.bank, v.id, v.version, v.seq, v.step, i.kind, v.text, v.facts, v.status,"
        " false, false, i.policy_version, v.actor, false"
        " FROM versions_0001 v JOIN items i ON i.bank = v.bank AND i.id = v.id"
    )
    op.execute(
        "INSERT INTO versions SELECT bank, id, version, seq, step, kind, NULL, NULL, status, false, false,"
        " policy_version, 'record', false FROM items WHERE level = 'experience'"
    )
    op.drop_table("versions_0001")
    op.create_index("versions_by_seq", "versions", ["bank", "seq"])
    op.create_index("versions_by_people", "versions", ["bank", "seq"], **_where("by_person", "by_person"))


def _where(sqlite: str, postgresql: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(sqlite), "postgresql_where": sa.text(postgresql)}


def _new_tables() -> None:
    op.create_table(
        "audit",
        *_key("bank"),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        _col("at", sa.Float),
        _col("actor"),
        _col("by_person", sa.Boolean),
        _col("action"),
        _col("item_id", null=True),
        _col("version", sa.Integer, null=True),
        _col("detail", sa.Text),
    )
    # Seqs from before there was an audit log are accounted for by one row each.
    op.execute(
        "INSERT INTO audit SELECT DISTINCT bank, seq, 0, 0.0, 'upgrade', false, 'before the audit log', NULL,"
        " CAST(NULL AS INTEGER), '{}' FROM versions"
    )
    op.create_index("audit_by_people", "audit", ["bank", "seq"], **_where("by_person", "by_person"))
    op.create_table(
        "annotations",
        *_key("bank"),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        *_key("item_id"),
        _col("at", sa.Float),
        _col("actor"),
        _col("text", sa.Text),
    )
    op.create_index("annotations_by_item", "annotations", ["bank", "item_id"])
    op.create_table("links", *_key("bank", "parent", "child"), _col("how"), _col("version", sa.Integer))
    op.create_index("links_by_child", "links", ["bank", "child"])
    op.create_table(
        "proposals",
        *_key("bank", "id"),
        _col("item_id"),
        _col("item_version", sa.Integer),
        _col("wish"),
        _col("text", sa.Text, null=True),
        _col("facts", sa.Text),
        _col("reason", sa.Text),
        _col("step", sa.Integer),
        _col("actor"),
        _col("status"),
        _col("seq", sa.BigInteger),
        _col("decided_by", null=True),
    )
    op.create_index("proposals_by_status", "proposals", ["bank", "status", "seq"])
    op.create_table(
        "steps",
        *_key("bank"),
        sa.Column("step", sa.Integer, primary_key=True),
        _col("seq", sa.BigInteger),
        _col("edits", sa.Integer),
    )
    op.create_table(
        "contexts",
        *_key("bank", "job"),
        _col("step", sa.Integer),
        _col("seq", sa.BigInteger),
        _col("artifact", sa.Text),
        _col("at", sa.Float),
    )
    op.create_index("contexts_by_step", "contexts", ["bank", "step"])
    op.create_table(
        "uses",
        *_key("bank", "job", "problem_id", "item_id"),
        _col("step", sa.Integer),
        _col("version", sa.Integer),
        _col("shown", sa.Boolean),
        _col("score", sa.Float),
        _col("credibility", sa.Float),
        _col("reward", sa.Float, null=True),
    )
    op.create_index("uses_by_item", "uses", ["bank", "item_id", "step"])


def _search() -> None:
    """Full-text search: FTS5 kept equal by triggers on SQLite, an expression index on Postgres."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute("CREATE INDEX items_by_words ON items USING gin (to_tsvector('simple', text))")
        return
    op.execute("CREATE VIRTUAL TABLE items_fts USING fts5(bank, text, content='items', content_rowid='number')")
    op.execute("INSERT INTO items_fts(items_fts) VALUES('rebuild')")
    gone = "INSERT INTO items_fts(items_fts, rowid, bank, text) VALUES ('delete', old.number, old.bank, old.text);"
    come = "INSERT INTO items_fts(rowid, bank, text) VALUES (new.number, new.bank, new.text);"
    op.execute(f"CREATE TRIGGER items_fts_in AFTER INSERT ON items BEGIN {come} END")
    op.execute(f"CREATE TRIGGER items_fts_out AFTER DELETE ON items BEGIN {gone} END")
    op.execute(f"CREATE TRIGGER items_fts_change AFTER UPDATE OF text ON items BEGIN {gone} {come} END")
