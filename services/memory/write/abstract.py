"""`abstract`: insights of many problems become behaviors, on the slow clock.

Problems are clustered; per cluster the model reads the strategies and writes the rules they share. By `terms` a rule
is kept while enough distinct problems of its cluster agree with it (support) and enough of the cluster does
(purity): old rules stand for election again with today's evidence, and one that a lucky answer gave birth to goes when
the insights under it go. By `effect` a rule is kept until what it led to speaks against it. Where a standing rule says
what nearly all strategies of a cluster say, or no strategy is newer than it, there is nothing to ask the model for. No
note of the model's is ever rewritten here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pmd.services.common.jobs import JobContext
from pmd.services.common.prompts import render
from pmd.services.common.requests import AbstractRequest, WriteResult
from pmd.services.common.wire import Problem
from pmd.services.memory.evidence.beliefs import BELIEVED
from pmd.services.memory.evidence.credibility import Support
from pmd.services.memory.evidence.effect import effect, gather
from pmd.services.memory.evidence.quality import without_duplicates
from pmd.services.memory.evidence.terms import AGREE, terms
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.leak.guard import leak
from pmd.services.memory.ledger import Item, Ledger, Transaction, clusters
from pmd.services.memory.write.found import Dropped
from pmd.services.memory.write.generator import ChatModel
from pmd.services.memory.write.notes import answer_schema, parse_behaviors
from pmd.services.memory.write.pools import Pool, read_pools
from pmd.services.memory.write.protected import make_room
from pmd.services.memory.write.told import BANNED, LEAKS, UNSUPPORTED, Told


def elect(pool: Pool, rules: Sequence[str], request: AbstractRequest) -> list[tuple[str, Support]]:
    """The rules that the pool's evidence carries, best supported first, at most `max_behaviors`.

    Rules that claim the same in other words are one rule, in the words that came first.
    """
    settings = request.settings
    carried: dict[frozenset[str], tuple[str, Support]] = {}
    for rule in rules:
        seen = pool.support(rule)
        supported = seen.agreeing >= settings.min_support and seen.purity >= settings.min_purity
        if pool.on_topic(rule) and supported:
            carried.setdefault(terms(rule) & pool.vocabulary, (rule, seen))
    return sorted(carried.values(), key=lambda pair: -pair[1].agreeing)[: settings.max_behaviors]


def settled(pool: Pool, standing: Sequence[Item], request: AbstractRequest) -> bool:
    """Whether a standing rule says what nearly all strategies of the pool say, or nothing is newer than the rules."""
    if pool.evidence == "effect":
        newest = max(item.step for items in pool.insights.values() for item in items)
        return bool(standing) and newest <= max(item.step for item in standing)
    return any(
        pool.on_topic(item.text) and seen.agreeing >= request.settings.min_support and seen.purity >= AGREE
        for item in standing
        if (seen := pool.support(item.text))
    )


def abstract(
    ledger: Ledger, vectors: Vectors, model: ChatModel, request: AbstractRequest, job: JobContext
) -> WriteResult:
    """Rewrite the behaviors of a bank."""
    by_terms = request.evidence == "terms"
    read = read_pools(ledger, vectors, request, job)
    found, old, known = read.pools, read.rules, read.problems
    asked = [pool for pool in found if not settled(pool, old.get(pool.cluster.id, []), request)]
    shown = request.settings.max_insights
    prompts = [
        render(
            "abstract",
            request.prompts.abstract,
            insights=[{"strategies": [i.text for i in items]} for items in list(pool.insights.values())[-shown:]],
        )
        for pool in asked
    ]
    budget, how = request.settings.max_behaviors, request.generator.format
    schema = answer_schema("behavior", budget=budget) if how == "json" else None
    said = model.notes(prompts, job, partial(parse_behaviors, budget=budget, how=how), schema)
    told = Told(said)
    answers = dict(zip((p.cluster.id for p in asked), said.found, strict=True))
    job.check()
    with ledger.at_step(request.bank, request.step) as view:
        banned = view.banned
        outcomes = {} if by_terms else gather(view.trials([item.id for items in old.values() for item in items]))
    new: list[Item] = []
    proposals: list[tuple[Item, Item]] = []
    confirmed: set[tuple[str, str]] = set()
    for pool in found:
        standing = old.get(pool.cluster.id, [])
        reading = answers.get(pool.cluster.id)
        written = reading.notes if reading else ()
        fresh = [rule for rule in written if not banned.says(rule)]
        told.drop(*(reading.dropped if reading else ()))
        told.drop(*(Dropped(BANNED, rule) for rule in written if rule not in fresh))
        believed = [i for i in standing if i.protected or effect(outcomes.get(i.id, {})).credibility >= BELIEVED]
        before = [item.text for item in believed]
        if request.quality.duplicates:
            fresh = list(without_duplicates(fresh, before, request.quality.near_duplicates))
        rules = [*before, *fresh]
        elected = [_behavior(pool, rule, carry, known, request) for rule, carry in elect(pool, rules, request)]
        chosen = {item.text: item for item in elected}
        told.drop(*(Dropped(UNSUPPORTED, rule) for rule in fresh if rule not in chosen))
        told.drop(*(Dropped(LEAKS, rule) for rule in fresh if rule in chosen and "leak" in chosen[rule].facts))
        kept, unmet = make_room(elected, standing, request.settings.max_behaviors)
        new += kept
        proposals += unmet
        confirmed |= {(item.scope, item.text) for item in elected}
    carried = {(item.scope, item.text) for item in new}
    dropped = [
        i
        for items in old.values()
        for i in items
        if (i.scope, i.text) not in (confirmed if i.protected else carried) and not _by_hand(i)
    ]

    unread = {pool.cluster.id for pool in asked if answers[pool.cluster.id] is None}

    def change(tx: Transaction) -> None:
        clusters.looked_at(tx, [name for name in read.looked_at if name not in unread])
        tx.set_status(dropped, "retired", request.step, request.generator.model)
        tx.write(new, request.generator.model)
        for protected, note in proposals:
            tx.propose(protected, "replace", request.generator.model, request.step, text=note.text, facts=note.facts)

    return told.result(ledger.apply(request.bank, job.key, change))


def _by_hand(rule: Item) -> bool:
    """Whether a person made a rule, of no cluster or of insights: no cluster's election says anything about it."""
    return rule.protected and (not rule.facts["members"] or "problems" in rule.facts)


def _behavior(pool: Pool, rule: str, seen: Support, known: Mapping[str, Problem], request: AbstractRequest) -> Item:
    tried = pool.tried(rule)
    guarded = pool.insights if request.quality.leak_guard else ()
    reasons = [reason for pid in guarded if (reason := leak(rule, known[pid]))]
    return Item(
        level="behavior",
        kind="behavior",
        scope=pool.cluster.id,
        text=rule,
        step=request.step,
        policy_version=request.policy_version,
        status="quarantined" if reasons else "active",
        facts={
            "topic": pool.cluster.topic,
            "support": seen.agreeing,
            "members": seen.members,
            "passes": tried.passes,
            "trials": tried.trials,
            "sources": [item.id for items in pool.insights.values() for item in items],
            **({"leak": reasons[0]} if reasons else {}),
        },
    )
