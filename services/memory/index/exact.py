"""The embedded index: exact cosine and BM25 over what is held in memory, per bank and level.

Invariants:
- Recall is 1: every active item is scored for every query.
- Rows are only appended. A changed item is a dead row and a new one, so counts of words and documents are right
  without bookkeeping: whatever is dead is left out when they are taken. When half of the rows are dead the level is
  packed.
- What searches derive from the rows (`_Statistics`) is thrown away as a whole by every change.
- Nothing is on disk but the vectors (`pmd.services.memory.index.vectors`); a restart reads the ledger again.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pmd.services.common.wire import Level
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.index.fusion import K1, B, Numbers, Scores, best, idf, relative_score, words
from pmd.services.memory.index.index import CANDIDATES, Entry, Hit, Query

PACK_ABOVE = 1024
"""Levels with fewer dead rows are not packed."""
COMMON = 8
"""A word in more than one of so many documents has its weights kept for all of them: adding all is then cheaper than
picking some."""


class _Postings:
    """Where a word occurs, and how often."""

    __slots__ = ("counts", "rows")

    def __init__(self) -> None:
        self.rows = array("l")
        self.counts = array("f")


class _Statistics:
    """What BM25 and cosine need to know of all rows, as they are at one moment; words are looked up once."""

    def __init__(
        self, alive: npt.NDArray[np.bool_], lengths: Scores, postings: Mapping[str, _Postings], documents: int
    ) -> None:
        self._alive = alive
        self.dead: Numbers = np.flatnonzero(~alive)
        self._norms = K1 * (1 - B + B * lengths / max(float(lengths[alive].mean()), 1e-9))
        self._postings = postings
        self._documents = documents
        self._weights: dict[str, tuple[Numbers | None, Scores] | None] = {}

    def bm25(self, text: str) -> Scores:
        """Score by row; -inf where no word of `text` occurs."""
        scores: Scores = np.zeros(len(self._alive), dtype=np.float32)
        for word, asked in Counter(words(text)).items():
            if word not in self._weights:
                self._weights[word] = self._of(word)
            known = self._weights[word]
            if known is None:
                continue
            rows, weights = known
            if rows is None:
                scores += asked * weights
            else:
                scores[rows] += asked * weights
        scores[scores == 0] = -np.inf  # weights are positive
        return scores

    def _of(self, word: str) -> tuple[Numbers | None, Scores] | None:
        """The rows that hold a word and what it adds to them; no rows: to all."""
        postings = self._postings.get(word)
        if postings is None:
            return None
        rows: Numbers = np.array(postings.rows, dtype=np.int64)
        counts = np.array(postings.counts, dtype=np.float32)
        here = self._alive[rows]
        rows, counts = rows[here], counts[here]
        weights = np.asarray(idf(self._documents, len(rows)) * counts / (counts + self._norms[rows]), dtype=np.float32)
        if len(rows) * COMMON <= len(self._alive):
            return rows, weights
        everywhere: Scores = np.zeros(len(self._alive), dtype=np.float32)
        everywhere[rows] = weights
        return None, everywhere


class _Shelf:
    """One level of one bank. Its lock is the caller's to hold."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seq = 0
        self._clear()

    def _clear(self) -> None:
        self._entries: list[Entry] = []
        self._row: dict[str, int] = {}
        self._vectors_ND: Rows = np.zeros((0, 0), dtype=np.float32)
        self._alive = np.zeros(0, dtype=bool)
        self._lengths = np.zeros(0, dtype=np.float32)
        self._postings: dict[str, _Postings] = defaultdict(_Postings)
        self._statistics: _Statistics | None = None

    def apply(self, entries: Sequence[Entry], vectors_ND: Rows, gone: Sequence[str]) -> None:
        for item_id in (*gone, *(e.id for e in entries)):
            row = self._row.pop(item_id, None)
            if row is not None:
                self._alive[row] = False
                self._statistics = None
        self._append(entries, vectors_ND)
        dead = len(self._entries) - len(self._row)
        if dead > PACK_ABOVE and dead > len(self._row):
            self._pack()

    def _append(self, entries: Sequence[Entry], vectors_ND: Rows) -> None:
        if not entries:
            return
        self._statistics = None
        first, total = len(self._entries), len(self._entries) + len(entries)
        if total > len(self._alive):
            room = max(total, 2 * len(self._alive), 64)
            self._alive = _grown(self._alive, room)
            self._lengths = _grown(self._lengths, room)
            wider: Rows = np.zeros((room, vectors_ND.shape[1]), dtype=np.float32)
            if first:
                wider[:first] = self._vectors_ND[:first]
            self._vectors_ND = wider
        self._vectors_ND[first:total] = vectors_ND
        self._alive[first:total] = True
        for row, entry in enumerate(entries, first):
            self._row[entry.id] = row
            counts = Counter(words(entry.document))
            self._lengths[row] = counts.total()
            for word, count in counts.items():
                postings = self._postings[word]
                postings.rows.append(row)
                postings.counts.append(count)
        self._entries += entries

    def _pack(self) -> None:
        rows = sorted(self._row.values())
        entries, vectors = [self._entries[r] for r in rows], self._vectors_ND[rows]
        self._clear()
        self._append(entries, vectors)

    def search(self, queries: Sequence[Query], alpha: float, limit: int) -> Iterator[list[Hit]]:
        size = len(self._entries)
        if not self._row:
            yield from ([] for _ in queries)
            return
        if self._statistics is None:
            here = self._alive[:size], self._lengths[:size]
            self._statistics = _Statistics(*here, self._postings, len(self._row))
        known = self._statistics
        cosines_QN = None
        if alpha > 0:
            cosines_QN = np.stack([q.vector for q in queries]) @ self._vectors_ND[:size].T
            cosines_QN[:, known.dead] = -np.inf
        for n, query in enumerate(queries):
            lists = []
            if alpha < 1:
                scores = known.bm25(query.text)
                near = best(scores, CANDIDATES)
                lists.append((1 - alpha, near, scores[near]))
            if cosines_QN is not None:
                near = best(cosines_QN[n], CANDIDATES)
                lists.append((alpha, near, cosines_QN[n][near]))
            yield self._hits(*relative_score(lists), query.vector, limit)

    def _hits(self, rows: Numbers, scores: npt.NDArray[np.float64], vector: Rows, limit: int) -> list[Hit]:
        """The best `limit` rows; of equal scores the lower id first."""
        if len(scores) > limit:
            chosen = np.flatnonzero(scores >= np.partition(scores, len(scores) - limit)[len(scores) - limit])
            rows, scores = rows[chosen], scores[chosen]
        cosines = (self._vectors_ND[rows] @ vector).tolist() if len(vector) else [None] * len(rows)
        found = zip(rows.tolist(), scores.tolist(), cosines, strict=True)
        hits = [Hit(self._entries[row].id, score, cosine) for row, score, cosine in found]
        return sorted(hits, key=lambda h: (-h.score, h.id))[:limit]

    def versions(self) -> dict[str, int]:
        return {item_id: self._entries[row].version for item_id, row in self._row.items()}


def _grown(values: npt.NDArray, room: int) -> npt.NDArray:  # type: ignore[type-arg]
    wider = np.zeros(room, dtype=values.dtype)
    wider[: len(values)] = values
    return wider


class ExactIndex:
    """The embedded index of all banks."""

    name = "exact"

    def __init__(self) -> None:
        self._shelves: dict[tuple[str, Level], _Shelf] = {}
        self._lock = threading.Lock()

    def _shelf(self, bank: str, level: Level) -> _Shelf | None:
        with self._lock:
            return self._shelves.get((bank, level))

    def seq(self, bank: str, level: Level) -> int:
        shelf = self._shelf(bank, level)
        return shelf.seq if shelf else 0

    def apply(
        self, bank: str, level: Level, entries: Sequence[Entry], vectors_ND: Rows, gone: Sequence[str], seq: int
    ) -> None:
        with self._lock:
            shelf = self._shelves.setdefault((bank, level), _Shelf())
        with shelf.lock:
            shelf.apply(entries, vectors_ND, gone)
            shelf.seq = seq

    def search(self, bank: str, level: Level, queries: Sequence[Query], alpha: float, limit: int) -> list[list[Hit]]:
        shelf = self._shelf(bank, level)
        if shelf is None:
            return [[] for _ in queries]
        with shelf.lock:
            return list(shelf.search(queries, alpha, limit))

    def versions(self, bank: str, level: Level) -> dict[str, int]:
        shelf = self._shelf(bank, level)
        if shelf is None:
            return {}
        with shelf.lock:
            return shelf.versions()

    def drop(self, bank: str) -> None:
        with self._lock:
            self._shelves = {key: shelf for key, shelf in self._shelves.items() if key[0] != bank}
