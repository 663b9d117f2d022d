"""What an abstraction looks at: clusters of problems, each with the strategies that its rules are made from.

By `terms` every strategy is evidence, so every cluster is looked at with all of them. By `effect` rules are made from
strategies and not measured by them: only clusters are looked at whose strategies changed since (`CLUSTERS` at a time,
those that wait longest first), each with its newest strategies, as many as a model is shown. The clusters that
embeddings make are kept in the ledger (`placing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

from pmd.services.common.jobs import JobContext
from pmd.services.common.options import EvidenceKind
from pmd.services.common.requests import AbstractRequest
from pmd.services.common.wire import Problem
from pmd.services.memory.evidence.bank import attempts_at, by_scope, problems, strategies
from pmd.services.memory.evidence.credibility import Attempt, Support, Tally, approaches, support
from pmd.services.memory.evidence.terms import terms, union
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.ledger import Item, Ledger, clusters, reads
from pmd.services.memory.write.cluster import Cluster, term_clusters
from pmd.services.memory.write.placing import place

CLUSTERS = 256
"""Clusters that one abstraction looks at, by effect."""


@dataclass(frozen=True)
class Pool:
    """A cluster with the strategies of its problems."""

    cluster: Cluster
    insights: Mapping[str, Sequence[Item]]
    """Strategies by problem, newest problem last."""
    shared: frozenset[str]
    """Terms that all of its problems have in common."""
    attempts: Mapping[str, Sequence[Attempt]]
    """Attempts by problem."""
    evidence: EvidenceKind
    members: int
    """Problems of the cluster that have a strategy, whether or not it is in the pool."""

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Terms that its strategies use: what a rule can be tested by."""
        return union(terms(item.text) for items in self.insights.values() for item in items)

    def support(self, rule: str) -> Support:
        """How many of the cluster's problems agree with `rule`: by effect none is asked, so all do."""
        if self.evidence == "effect":
            return Support(self.members, self.members)
        joined = [" ".join(item.text for item in items) for items in self.insights.values()]
        return support(rule, joined, self.shared)

    def tried(self, rule: str) -> Tally:
        """How the different approaches that follow `rule` fared at the pooled problems."""
        return sum((approaches(rule, self.attempts.get(pid, ())) for pid in self.insights), Tally())

    def on_topic(self, rule: str) -> bool:
        """Whether a rule is about what the cluster is about."""
        return not self.cluster.topic or self.cluster.topic in terms(rule)


@dataclass(frozen=True)
class Pools:
    """What an abstraction has read."""

    pools: Sequence[Pool]
    rules: Mapping[str, Sequence[Item]]
    """Behaviors that stand for election, by cluster."""
    problems: Mapping[str, Problem]
    """Those of the pools, by id."""
    looked_at: Sequence[str] = ()
    """The clusters that are kept, of which no other rules stand."""


def read_pools(ledger: Ledger, vectors: Vectors, request: AbstractRequest, job: JobContext) -> Pools:
    """Read what the bank's rules are made from; kept clusters are brought up to its notes first.

    Raises:
        EmbedderDown: when questions must be embedded and the embedder is out of reach.
    """
    if request.settings.clustering == "embeddings":
        place(ledger, vectors, request, job)
        if request.evidence == "effect":
            return _changed(ledger, request)
    return _everything(ledger, request)


def _everything(ledger: Ledger, request: AbstractRequest) -> Pools:
    """All clusters, each with all of its strategies."""
    bank, enough = request.bank, request.settings.min_support
    known = problems(ledger, bank)
    notes = by_scope(strategies(ledger.active(bank, "insight")))
    if request.settings.clustering == "terms":
        everything = {pid: problem.question() for pid, problem in known.items()}
        found = term_clusters({pid: everything[pid] for pid in sorted(notes)}, everything, enough)
    else:
        with ledger.read() as db:
            everybody = clusters.everybody(db, bank)
        members: dict[str, list[str]] = defaultdict(list)
        for pid in sorted(everybody.keys() & notes.keys()):
            members[everybody[pid]].append(pid)
        found = [Cluster("", tuple(ids), name) for name, ids in sorted(members.items()) if len(ids) >= enough]
    attempts = attempts_at(ledger, bank, None, request.excerpt_chars) if request.evidence == "terms" else {}
    pools = [_pool(c, len(c.problem_ids), notes, known, attempts, request) for c in found]
    return Pools(pools, by_scope(ledger.active(bank, "behavior")), known)


def _changed(ledger: Ledger, request: AbstractRequest) -> Pools:
    """The clusters whose strategies changed, each with its newest ones."""
    bank, settings = request.bank, request.settings
    with ledger.read() as db:
        behind = clusters.behind(db, bank, CLUSTERS)
        members = {name: clusters.standing(db, bank, name) for name in behind}
        found = [
            Cluster("", tuple(clusters.members(db, bank, name, settings.max_insights)), name)
            for name in behind
            if members[name] >= settings.min_support
        ]
        ids = [pid for cluster in found for pid in cluster.problem_ids]
        notes = by_scope(strategies(reads.active(db, bank, "insight", ids)))
        rules = by_scope(reads.active(db, bank, "behavior", behind))
    known = problems(ledger, bank, ids)
    pools = [_pool(c, members[c.id], notes, known, {}, request) for c in found if notes.keys() & set(c.problem_ids)]
    return Pools(pools, rules, known, behind)


def _pool(
    cluster: Cluster,
    members: int,
    notes: Mapping[str, Sequence[Item]],
    known: Mapping[str, Problem],
    attempts: Mapping[str, Sequence[Attempt]],
    request: AbstractRequest,
) -> Pool:
    there = [pid for pid in cluster.problem_ids if pid in notes]
    return Pool(
        cluster=cluster,
        insights={pid: notes[pid] for pid in sorted(there, key=lambda p: (notes[p][-1].step, p))},
        shared=reduce(frozenset.intersection, (terms(known[pid].question()) for pid in there)),
        attempts=attempts,
        evidence=request.evidence,
        members=members,
    )
