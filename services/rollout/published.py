"""Which weights each run has published to this replica, remembered over restarts.

Invariant: the desired version of a run is the last one that a `publish` job named, and it is on disk before that
job ends; every version ever published can still be asked for by name while its folder exists.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from services.common.strict import nearest
from services.common.wire import Policy, Weights


class UnknownModel(LookupError):
    """No run has published this model here; the message says which is nearest."""


class Published:
    """The published policies of all runs (SQLite, shared by threads)."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        # `at` grows with every publish, so the desired version of a run is its row with the greatest `at`.
        self._db.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
            "CREATE TABLE IF NOT EXISTS published(run TEXT, version INTEGER, uri TEXT, sha256 TEXT, at INTEGER,"
            " PRIMARY KEY(run, version));"
        )

    def publish(self, policy: Policy) -> None:
        """Make `policy` the desired one of its run."""
        weights = policy.weights
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO published SELECT ?,?,?,?, 1 + COALESCE(MAX(at), 0) FROM published",
                (policy.run, weights.version, weights.uri, weights.sha256),
            )

    def all(self) -> list[Policy]:
        """Every published policy, the last published one first."""
        with self._lock:
            rows = self._db.execute("SELECT run, version, uri, sha256 FROM published ORDER BY at DESC").fetchall()
        return [Policy(run=r, weights=Weights(version=v, uri=u, sha256=s)) for r, v, u, s in rows]

    def desired(self) -> dict[str, Policy]:
        """The desired policy of each run, the last published one first."""
        newest: dict[str, Policy] = {}
        for policy in self.all():
            newest.setdefault(policy.run, policy)
        return newest

    def find(self, model: str) -> Policy:
        """The policy that `<run>` (the desired version) or `<run>@<version>` names.

        Raises:
            UnknownModel: naming the nearest model that exists.
        """
        names = {policy.model: policy for policy in self.all()} | self.desired()
        if model in names:
            return names[model]
        guess = nearest(model, names)
        hint = f"did you mean {guess!r}?" if guess else "publish a policy first; GET /v1/models lists what there is"
        raise UnknownModel(f"no model {model!r} here; {hint}")
