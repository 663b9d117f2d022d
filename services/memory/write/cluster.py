"""Clusters of problems whose insights are pooled for abstraction. Two ways, both deterministic.

`terms`: frequent-term clustering (Beil, Ester, Xu, KDD 2002): every term that several, but not most, problems
share makes a cluster, named by the term. Clusters overlap, as the reasons for a rule do: one problem can
support a rule about its first symbol and another about its second.

`embeddings`: average linkage on cosine distance, cut at a distance, as problems come. One joins the cluster that is
nearest on average, if that is near enough; those that none is near enough to are linked with each other, `WINDOW` at a
time, and a group of them that is large enough becomes a cluster. Time grows with the problems, not with their square,
and a cluster keeps its name and its problems for good. Up to `WINDOW` problems at once are clustered as by plain
agglomerative clustering. Clusters do not overlap and have no topic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from pmd.services.memory.evidence.terms import MAX_SHARE, terms
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.ledger import CLUSTER

WINDOW = 1000
"""Problems that are looked at together: linking them takes their square."""


@dataclass(frozen=True)
class Cluster:
    """Problems that may obey a common rule."""

    topic: str
    """The term that its problems share; empty for embedding clusters."""
    problem_ids: tuple[str, ...]
    id: str
    """Stable: the topic, or the first of the problems that an embedding cluster was made from."""


def term_clusters(questions: Mapping[str, str], all_questions: Mapping[str, str], min_size: int) -> list[Cluster]:
    """Overlapping clusters of the problems that share a term.

    Args:
        questions: the problems to cluster, id to text.
        all_questions: every problem of the bank; terms that more than half of them use make no cluster.
    """
    counts: dict[str, int] = defaultdict(int)
    for text in all_questions.values():
        for term in terms(text):
            counts[term] += 1
    members: dict[str, list[str]] = defaultdict(list)
    for problem_id, text in questions.items():
        for term in terms(text):
            members[term].append(problem_id)
    limit = MAX_SHARE * len(all_questions)
    return [
        Cluster(term, tuple(ids), term)
        for term, ids in sorted(members.items())
        if len(ids) >= min_size and counts[term] <= limit
    ]


class Groups:
    """Clusters by embeddings, as problems come."""

    def __init__(self, distance: float, min_size: int) -> None:
        self._distance = distance
        self._min_size = max(2, min_size)
        self._ids: list[str] = []
        self._sizes: list[int] = []
        self._sums: list[Rows] = []
        self._waiting: dict[str, Rows] = {}
        """Problems of no cluster, the newest last, each with its vector."""

    def know(self, cluster: str, size: int, sum_D: Rows) -> None:
        """Take over a cluster with the sum of its members' vectors."""
        self._ids.append(cluster)
        self._sizes.append(size)
        self._sums.append(sum_D)

    def wait(self, problem_ids: Sequence[str], vectors_ND: Rows) -> None:
        """Remember problems of no cluster, the newest last."""
        for problem_id, vector in zip(problem_ids, vectors_ND, strict=True):
            self._waiting.pop(problem_id, None)
            self._waiting[problem_id] = vector
        for problem_id in list(self._waiting)[:-WINDOW]:
            del self._waiting[problem_id]

    def sums(self) -> dict[str, tuple[int, Rows]]:
        """Size, and sum of the members' vectors, by cluster."""
        return {name: (size, sum_D) for name, size, sum_D in zip(self._ids, self._sizes, self._sums, strict=True)}

    def add(self, problem_ids: Sequence[str], vectors_ND: Rows) -> dict[str, str]:
        """Place at most `WINDOW` problems; the clusters of those that found one now, waiting ones among them."""
        found = self._joined(problem_ids, vectors_ND)
        for problem_id in found:
            self._waiting.pop(problem_id, None)
        left = [n for n, problem_id in enumerate(problem_ids) if problem_id not in found]
        self.wait([problem_ids[n] for n in left], vectors_ND[left])
        return found | self._linked() if left else found

    def _joined(self, problem_ids: Sequence[str], vectors_ND: Rows) -> dict[str, str]:
        """Those that are near enough to a cluster: a vector's cosine with a sum is that with all members together."""
        if not self._ids or not problem_ids:
            return {}
        means_CD = np.stack(self._sums) / np.array(self._sizes, dtype=np.float32)[:, None]
        likeness_NC = vectors_ND @ means_CD.T
        nearest_N = likeness_NC.argmax(axis=1)
        found = {}
        for row, (problem_id, cluster) in enumerate(zip(problem_ids, nearest_N.tolist(), strict=True)):
            if 1 - likeness_NC[row, cluster] <= self._distance:
                found[problem_id] = self._ids[cluster]
                self._sums[cluster] = self._sums[cluster] + vectors_ND[row]
                self._sizes[cluster] += 1
        return found

    def _linked(self) -> dict[str, str]:
        """Groups of the waiting that are large enough, which become clusters."""
        if len(self._waiting) < self._min_size:
            return {}
        ids = sorted(self._waiting)
        rows_ND = np.stack([self._waiting[i] for i in ids])
        found: dict[str, str] = {}
        for group in _groups(rows_ND, self._distance):
            if len(group) >= self._min_size:
                named = f"{CLUSTER}{ids[group[0]]}"
                self.know(named, len(group), rows_ND[group].sum(axis=0))
                found |= {ids[n]: named for n in group}
        for problem_id in found:
            del self._waiting[problem_id]
        return found


def _groups(rows_ND: Rows, distance: float) -> list[list[int]]:
    """Rows by average linkage on cosine distance, cut at `distance`; by their first row."""
    vectors = rows_ND.astype(np.float64)
    distances_NN = np.clip(1 - vectors @ vectors.T, 0.0, None)
    tree = linkage(distances_NN[np.triu_indices(len(vectors), 1)], method="average")
    groups: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(fcluster(tree, t=distance, criterion="distance")):
        groups[int(label)].append(row)
    return sorted(groups.values())
