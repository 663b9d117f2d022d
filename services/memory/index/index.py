"""What an index of memory is, how it keeps up with the ledger, and which text of an item it searches.

Invariants, for every index:
- The ledger is the truth. An index holds the active items of a bank's level as of its `seq`, and nothing else; it
  may be dropped at any moment and is brought up by `catch_up`.
- Both indexes score alike: cosine for meaning, BM25 for words, fused by relative score with an explicit alpha
  (`pmd.services.memory.index.fusion`). Which one answers does not decide which memories are found.
- Ids are all that an index gives. What is shown is read from the ledger, so that an index that lags can hide an
  item for a moment, but can't show a banned one or an old text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pmd.services.common.curation import MAX_FOUND
from pmd.services.common.waiting import Away
from pmd.services.common.wire import Level, Problem
from pmd.services.memory.evidence.terms import excerpt, stem
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.ledger import CLUSTER, Item, Ledger

DOCUMENT_CHARS = 2000
"""Longest text that is searched or embedded, question included; what lies beyond says little more."""
ATTEMPT_CHARS = 600
"""Head of an attempt that is searched: its approach."""
CANDIDATES = MAX_FOUND
"""Best items by meaning, and by words, that are fused: enough for the longest answer."""
PAGE = 2000
"""Changed items read from the ledger at a time."""


class IndexDown(Away):
    """The index can't be reached, or failed in a way that may pass."""


@dataclass(frozen=True)
class Entry:
    """An active item as an index holds it."""

    id: str
    version: int
    document: str
    """What is searched: see `document`."""


@dataclass(frozen=True)
class Query:
    """What to look for."""

    text: str
    vector: Rows
    """Unit row, float32 [dimensions]; may be empty where alpha is 0, and hits then have no cosine."""


@dataclass(frozen=True)
class Hit:
    """An item that was found."""

    id: str
    score: float
    """Fused score in [0, 1], relative to the other hits of the same search."""
    cosine: float | None = None
    """Similarity to the query; None where the index does not say it, or the query has no vector."""


class Index(Protocol):
    """Items of banks, searchable by meaning and by words. Thread-safe; all methods may raise `IndexDown`."""

    name: str

    def seq(self, bank: str, level: Level) -> int:
        """The ledger's `seq` that a level stands at; 0 when nothing is indexed."""
        ...

    def apply(
        self, bank: str, level: Level, entries: Sequence[Entry], vectors_ND: Rows, gone: Sequence[str], seq: int
    ) -> None:
        """Add or replace `entries` (vectors by row), remove the ids `gone`, and stand at `seq` once all of it is done.

        Doing it twice, or again after it broke off half-way, leaves the same index.
        """
        ...

    def search(self, bank: str, level: Level, queries: Sequence[Query], alpha: float, limit: int) -> list[list[Hit]]:
        """The best `limit` (at most `CANDIDATES`) items for each query, best first.

        Args:
            alpha: weight of meaning against words: 1 is cosine alone, 0 is BM25 alone.
        """
        ...

    def versions(self, bank: str, level: Level) -> dict[str, int]:
        """Everything that is held: version by id."""
        ...

    def drop(self, bank: str) -> None:
        """Forget a bank."""
        ...


def head(text: str) -> str:
    """As much of a text as is embedded and searched, in characters that every server can be told."""
    return text[:DOCUMENT_CHARS].encode(errors="replace").decode()


def home(item: Item) -> str:
    """The problem that a note is about, or that its cluster is named for; empty for a rule without a cluster."""
    if item.level != "behavior":
        return item.scope
    return item.scope.removeprefix(CLUSTER) if item.scope.startswith(CLUSTER) else ""


def document(item: Item, question: str) -> str:
    """The text that stands for an item in every index.

    An insight, and the approach of an attempt, are about a problem: its question follows, so that they are found from
    problems that ask the like; its options don't, as they make unlike questions alike. After a behavior comes the
    question that its cluster is named for: what a rule says in general has few words in common with any question.
    """
    said = excerpt(item.text, ATTEMPT_CHARS) if item.level == "experience" else item.text
    return head(f"{said}\n{stem(question)}" if question else said)


def entries(ledger: Ledger, bank: str, items: Sequence[Item]) -> list[Entry]:
    """Items as an index holds them."""
    scopes = sorted({home(i) for i in items} - {""})
    bodies = ledger.problems(bank, scopes) if scopes else {}
    questions = {pid: Problem.model_validate_json(body).question() for pid, body in bodies.items()}
    return [Entry(i.id, i.version, document(i, questions.get(home(i), ""))) for i in items]


def catch_up(
    ledger: Ledger,
    index: Index,
    vectors: Vectors,
    bank: str,
    level: Level,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Bring a level of a bank up to the ledger, and return the `seq` it then stands at.

    Only what changed since the index's `seq` is read. An index that is ahead of the ledger belongs to a bank that
    was deleted since: it is dropped first.

    Args:
        check: called between pieces of work; may raise to stop early. What was embedded stays known.
    """
    newest = ledger.seq(bank)
    done = index.seq(bank, level)
    if done > newest:
        index.drop(bank)
        done = 0
    while done < newest:
        check()
        page = ledger.changes(bank, done, PAGE)
        upto = page[-1].seq if page else newest  # the newest change may be of no item
        mine = [i for i in page if i.level == level]
        if mine or upto >= newest:
            held = entries(ledger, bank, [i for i in mine if i.status == "active"])
            rows = vectors.of([e.document for e in held], check)
            index.apply(bank, level, held, rows, [i.id for i in mine if i.status != "active"], upto)
        done = upto
    return done
