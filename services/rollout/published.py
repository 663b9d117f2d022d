"""Which weights each run has published to this replica, remembered over restarts.

Invariant: the desired version of a run is the last one that a `publish` job named, and it is on disk before that
job ends; every version ever published can still be asked for by name while its folder exists.
"""

from __future__ import annotations

from pathlib import Path

from pmd.services.common.store import Store
from pmd.services.common.strict import nearest
from pmd.services.common.wire import Policy, Weights


class UnknownModel(LookupError):
    """No run has published this model here; the message says which is nearest."""


class Published:
    """The published policies of all runs (SQLite, shared by threads)."""

    def __init__(self, path: Path) -> None:
        # `at` grows with every publish, so the desired version of a run is its row with the greatest `at`.
        self._store = Store(
            path,
            "CREATE TABLE IF NOT EXISTS published(run TEXT, version INTEGER, uri TEXT, sha256 TEXT, at INTEGER,"
            " PRIMARY KEY(run, version));",
        )

    def publish(self, policy: Policy) -> None:
        """Make `policy` the desired one of its run."""
        weights = policy.weights
        self._store.change(
            "INSERT OR REPLACE INTO published SELECT ?,?,?,?, 1 + COALESCE(MAX(at), 0) FROM published",
            *(policy.run, weights.version, weights.uri, weights.sha256),
        )

    def forget(self, run: str) -> int:
        """Let no name of `run` lead anywhere any more; the bytes that this frees are none to speak of."""
        self._store.change("DELETE FROM published WHERE run = ?", run)
        return 0

    def all(self) -> list[Policy]:
        """Every published policy, the last published one first."""
        return self._policies("SELECT run, version, uri, sha256 FROM published ORDER BY at DESC")

    def desired(self) -> dict[str, Policy]:
        """The desired policy of each run, the last published one first."""
        # SQLite takes the other columns from the row that has the maximum.
        query = "SELECT run, version, uri, sha256, MAX(at) AS newest FROM published GROUP BY run ORDER BY newest DESC"
        return {policy.run: policy for policy in self._policies(query)}

    def find(self, model: str) -> Policy:
        """The policy that `<run>` (the desired version) or `<run>@<version>` names.

        Raises:
            UnknownModel: naming the nearest model that exists.
        """
        query = (
            "SELECT run, version, uri, sha256 FROM published"
            " WHERE run = ? AND ? IN (run, run || '@' || version) ORDER BY at DESC LIMIT 1"
        )
        run = model.partition("@")[0]  # a run's name holds no @
        if found := self._policies(query, run, model):
            return found[0]
        guess = nearest(model, [*self.desired(), *(policy.model for policy in self.all())])
        hint = f"did you mean {guess!r}?" if guess else "publish a policy first; GET /v1/models lists what there is"
        raise UnknownModel(f"no model {model!r} here; {hint}")

    def _policies(self, query: str, *values: str) -> list[Policy]:
        rows = self._store.rows(query, *values)
        return [Policy(run=r, weights=Weights(version=v, uri=u, sha256=s)) for r, v, u, s, *_ in rows]
