"""The registry's tables as its queries see them, for SQLite and Postgres; `migrations` make them."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

RUNS = Table(
    "runs",
    METADATA,
    Column("id", String(128), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("method", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("desired", String(16), nullable=False),  # run | pause | cancel: what people ask for; delete
    Column("recipe", Text, nullable=False),  # JSON of the resolved recipe
    Column("idempotency_key", String(200), unique=True),
    Column("inputs", Text, nullable=False),  # JSON of `inputs.Inputs`
    Column("step", Integer, nullable=False),  # steps complete, step 0 not counted
    Column("steps", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),  # fencing token: grows with every claim
    Column("lease_owner", String(200)),
    Column("lease_until", Float, nullable=False),
    Column("due", Float, nullable=False),  # not to be advanced before: backoff and waiting
    Column("waiting_since", Float),  # what it needs has been away since; the newest event `run.waiting` says what
    Column("error", Text),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("runs_by_age", "created", "id"),
    Index("runs_by_status", "status"),
)

PHASES = Table(
    "phases",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("service", String(16), nullable=False),
    Column("status", String(16), nullable=False),  # submitted | succeeded | failed | cancelled | cleared
    Column("request_hash", String(64), nullable=False),
    Column("result", Text),
    Column("facts", Text),
    Column("error", Text),
    Column("seconds", Float),
    Column("submitted", Float, nullable=False),
    Column("ended", Float),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("ts", Float, nullable=False),
    Column("type", String(32), nullable=False),
    Column("payload", Text, nullable=False),
)

ALARMS = Table(
    "alarms",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("message", Text, nullable=False),  # of the newest
    Column("step", Integer),  # of the newest; null when it was raised at the run's creation or end
    Column("count", Integer, nullable=False),
)

ARTIFACTS = Table(
    "artifacts",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("uri", String(1024), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("kind", String(32), nullable=False),  # the phase that wrote it, or `weights`
    Column("version", Integer),  # of weights
    Column("sha256", String(64), nullable=False),
    Column("bytes", Integer),
    Column("rows", Integer),
)

RELEASES = Table(
    "releases",
    METADATA,
    Column("run_id", String(128), ForeignKey("runs.id"), primary_key=True),
    Column("service", String(16), primary_key=True),
    Column("job", String(200), primary_key=True),  # key of a job to cancel; empty: all that is held for the run
    Column("due", Float, nullable=False),  # not to be tried before
)
"""Calls that a run owes to services since it ended or paused; a row goes when the service has answered."""

DELETED = Table(
    "deleted",
    METADATA,
    Column("run_id", String(128), primary_key=True),
    Column("at", Float, nullable=False),
)
"""Runs that were deleted. Services remember jobs by the id of their run, so it is never given again."""

USED_CODES = Table(
    "used_codes",
    METADATA,
    Column("code", String(64), primary_key=True),  # its sha256
    Column("ends", Float, nullable=False),
)
"""Sign-in codes of browsers that were used; a row goes after its code has ended."""
