"""Clusters of problems whose insights are pooled for abstraction. Two ways, both deterministic.

`terms`: frequent-term clustering (Beil, Ester, Xu, KDD 2002): every term that several, but not most, problems
share makes a cluster, named by the term. Clusters overlap, as the reasons for a rule do: one problem can
support a rule about its first symbol and another about its second.

`embeddings`: agglomerative clustering with average cosine linkage, cut at a distance. Clusters do not overlap
and have no topic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage

from pmd.services.memory.evidence.terms import MAX_SHARE, terms


@dataclass(frozen=True)
class Cluster:
    """Problems that may obey a common rule."""

    topic: str
    """The term that its problems share; empty for embedding clusters."""
    problem_ids: tuple[str, ...]

    @property
    def id(self) -> str:
        """Stable name: the topic, or the first problem of an embedding cluster."""
        return self.topic or f"cluster:{self.problem_ids[0]}"


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
        Cluster(term, tuple(ids))
        for term, ids in sorted(members.items())
        if len(ids) >= min_size and counts[term] <= limit
    ]


def embedding_clusters(
    problem_ids: list[str], vectors_ND: npt.NDArray[np.float32], distance: float, min_size: int
) -> list[Cluster]:
    """Disjoint clusters by average linkage on cosine distance, cut at `distance`; smaller ones than `min_size` go."""
    if len(problem_ids) < max(2, min_size):
        return []
    tree = linkage(vectors_ND.astype(np.float64), method="average", metric="cosine")
    groups: dict[int, list[str]] = defaultdict(list)
    for problem_id, label in zip(problem_ids, fcluster(tree, t=distance, criterion="distance"), strict=True):
        groups[int(label)].append(problem_id)
    return sorted((Cluster("", tuple(ids)) for ids in groups.values() if len(ids) >= min_size), key=lambda c: c.id)
