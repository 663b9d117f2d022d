"""The ledger's tables as its queries see them. `services/memory/migrations` makes them, on SQLite and Postgres."""

from __future__ import annotations

import string
from typing import Any

import sqlalchemy as sa

META = sa.MetaData()


def _key(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.String) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True)


def _col(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.String, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def _count(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.Integer) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, server_default="0")


BANKS = sa.Table(
    "banks",
    META,
    _key("bank"),
    _col("seq", sa.BigInteger),
    _col("created", sa.Float),
    # Active items by level, counted as they change.
    *(_count(level) for level in ("experience", "insight", "behavior")),
    # The `seq` up to which strategies have been looked at for clusters.
    _count("clustered", sa.BigInteger),
)

# What was done once for ever: jobs by their key, and people's requests by their Idempotency-Key.
WRITES = sa.Table(
    "writes", META, _key("bank"), _key("key"), _col("digest", null=True), _col("answer", sa.Text, null=True)
)

PROBLEMS = sa.Table(
    "problems", META, _key("bank"), _key("problem_id"), _col("body", sa.Text), _count("seq", sa.BigInteger)
)

ITEMS = sa.Table(
    "items",
    META,
    # Full-text search refers to rows by number.
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _col("bank"),
    _col("id"),
    _col("level"),
    _col("kind"),
    _col("scope"),
    _col("text", sa.Text),
    _col("fingerprint"),
    _col("status"),
    _col("pinned", sa.Boolean),
    _col("edited", sa.Boolean),
    _col("version", sa.Integer),
    _col("seq", sa.BigInteger),
    _col("step", sa.Integer),
    _col("policy_version", sa.Integer),
    _col("facts", sa.Text),
)

# Append-only. An attempt's text and facts never change: its versions leave them out.
VERSIONS = sa.Table(
    "versions",
    META,
    _key("bank"),
    _key("id"),
    _key("version", sa.Integer),
    _col("seq", sa.BigInteger),
    _col("step", sa.Integer),
    _col("kind"),
    _col("text", sa.Text, null=True),
    _col("facts", sa.Text, null=True),
    _col("status"),
    _col("pinned", sa.Boolean),
    _col("edited", sa.Boolean),
    _col("policy_version", sa.Integer),
    _col("actor"),
    _col("by_person", sa.Boolean),
)

# One row for each change by a person and each job that wrote; every `seq` of a bank has at least one.
AUDIT = sa.Table(
    "audit",
    META,
    _key("bank"),
    _key("seq", sa.BigInteger),
    _key("n", sa.Integer),
    _col("at", sa.Float),
    _col("actor"),
    _col("by_person", sa.Boolean),
    _col("action"),
    _col("item_id", null=True),
    _col("version", sa.Integer, null=True),
    _col("detail", sa.Text),
)

ANNOTATIONS = sa.Table(
    "annotations",
    META,
    _key("bank"),
    _key("seq", sa.BigInteger),
    _key("item_id"),
    _col("at", sa.Float),
    _col("actor"),
    _col("text", sa.Text),
)

# parent: a rollout ("<step>:<rollout id>") or an item that the item `child` was made from.
LINKS = sa.Table("links", META, _key("bank"), _key("parent"), _key("child"), _col("how"), _col("version", sa.Integer))

PROPOSALS = sa.Table(
    "proposals",
    META,
    _key("bank"),
    _key("id"),
    _col("item_id"),
    _col("item_version", sa.Integer),
    _col("action"),  # replace | retire
    _col("text", sa.Text, null=True),
    _col("facts", sa.Text),
    _col("reason", sa.Text),
    _col("step", sa.Integer),
    _col("actor"),
    _col("status"),  # open | accepted | rejected
    _col("seq", sa.BigInteger),
    _col("decided_by", null=True),
)

# Names that people gave to a `seq`.
SNAPSHOTS = sa.Table(
    "snapshots",
    META,
    _key("bank"),
    _key("name"),
    _col("seq", sa.BigInteger),
    _col("at", sa.Float),
    _col("actor"),
    _col("note", sa.Text),
)

# Where each step of a run began, as its bank sees it: changes by people after `seq` wait for the next step.
STEPS = sa.Table(
    "steps", META, _key("bank"), _key("step", sa.Integer), _col("seq", sa.BigInteger), _col("edits", sa.Integer)
)

# Rendered teacher contexts, by the job that rendered them, and the items that they show.
CONTEXTS = sa.Table(
    "contexts",
    META,
    _key("bank"),
    _key("job"),
    _col("step", sa.Integer),
    _col("seq", sa.BigInteger),
    _col("artifact", sa.Text),
    _col("at", sa.Float),
)
USES = sa.Table(
    "uses",
    META,
    _key("bank"),
    _key("job"),
    _key("problem_id"),
    _key("item_id"),
    _col("step", sa.Integer),
    _col("version", sa.Integer),
    _col("shown", sa.Boolean),
    _col("score", sa.Float),
    _col("credibility", sa.Float),
    _col("reward", sa.Float, null=True),
    _col("base", sa.Float, null=True),
)

# Clusters of problems that ask the like. sum: of its members' vectors, float32; behind: the `seq` from which on
# strategies of its members changed that its rules were not looked at with; 0: none.
CLUSTERS = sa.Table(
    "clusters",
    META,
    _key("bank"),
    _key("id"),
    _col("embedder"),
    _col("size", sa.Integer),
    _col("sum", sa.LargeBinary),
    _col("behind", sa.BigInteger),
)
# Problems that had a strategy. cluster: none, while too few ask the like; step: of the newest strategy that stands.
MEMBERS = sa.Table(
    "members", META, _key("bank"), _key("problem_id"), _col("cluster", null=True), _col("step", sa.Integer, null=True)
)

# What a model said of two notes, by the fingerprints of their texts.
JUDGEMENTS = sa.Table(
    "judgements",
    META,
    _key("bank"),
    _key("low"),
    _key("high"),
    _col("apart", sa.Boolean),
    _col("step", sa.Integer),
    _col("model"),
)

OF_A_BANK = (
    WRITES,
    PROBLEMS,
    ITEMS,
    VERSIONS,
    AUDIT,
    ANNOTATIONS,
    LINKS,
    PROPOSALS,
    SNAPSHOTS,
    STEPS,
    CONTEXTS,
    USES,
    CLUSTERS,
    MEMBERS,
    JUDGEMENTS,
)
"""Everything that goes when a bank is deleted."""

# Conditions and expressions in the words of the indexes: planners recognise them by that.
SETTLED = sa.text("(pinned OR edited OR status IN ('banned', 'superseded'))")
"""Of items: only people may change them (`Item.settled`)."""
# Postgres' parser makes one word of `math.sqrt`, `1/2` and `-3`, and drops what looks like a tag: it is given letters
# and digits only. Accents do not count, as on SQLite. A tsvector holds 1 MiB, of which a character takes up to 4 bytes.
_PUNCTUATION = string.punctuation.replace("'", "''")
_ACCENTS = "".join(map(chr, range(0x300, 0x370)))
_PLAIN = f"translate(left(normalize(text, NFD), 200000), '{_PUNCTUATION}{_ACCENTS}', repeat(' ', 32))"
WORDS: sa.ColumnClause[Any] = sa.literal_column(f"to_tsvector('simple', {_PLAIN})")
"""Of items on Postgres: their words, as full-text search knows them."""
STANDING_NOTES = sa.text("level <> 'experience' AND status = 'active'")
"""Of items."""
BY_PERSON = sa.text("by_person")
"""Of versions and audit rows."""
