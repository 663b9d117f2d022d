"""The embedded index: exact cosine and BM25 over what is held in memory, per bank and level.

Invariants:
- Recall is 1: every active item is scored for every query.
- Rows are only appended. A changed item is a dead row and a new one, so counts of words and documents are right
  without bookkeeping: whatever is dead is left out when they are taken. When half of the rows are dead the level is
  packed.
- Nothing is on disk but the vectors (`services.memory.vectors`); a restart reads the ledger again.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.common.wire import Level
from services.memory.embed import Rows
from services.memory.fusion import K1, B, Scores, best, idf, relative_score, words
from services.memory.index import CANDIDATES, Entry, Hit, Query

PACK_ABOVE = 1024
"""Levels with fewer dead rows are not packed."""


class _Postings:
    """Where a word occurs, and how often."""

    __slots__ = ("counts", "rows")

    def __init__(self) -> None:
        self.rows = array("l")
        self.counts = array("f")


class _Shelf:
    """One level of one bank."""

    def __init__(self) -> None:
        self.seq = 0
        self._entries: list[Entry] = []
        self._row: dict[str, int] = {}
        self._vectors_ND: Rows = np.zeros((0, 0), dtype=np.float32)
        self._alive = np.zeros(0, dtype=bool)
        self._lengths = np.zeros(0, dtype=np.float32)
        self._postings: dict[str, _Postings] = defaultdict(_Postings)

    def apply(self, entries: Sequence[Entry], vectors_ND: Rows, gone: Sequence[str]) -> None:
        for item_id in (*gone, *(e.id for e in entries)):
            row = self._row.pop(item_id, None)
            if row is not None:
                self._alive[row] = False
        self._append(entries, vectors_ND)
        dead = len(self._entries) - len(self._row)
        if dead > PACK_ABOVE and dead > len(self._row):
            self._pack()

    def _append(self, entries: Sequence[Entry], vectors_ND: Rows) -> None:
        if not entries:
            return
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
        seq = self.seq
        self.__init__()  # type: ignore[misc]
        self._append(entries, vectors)
        self.seq = seq

    def search(self, queries: Sequence[Query], alpha: float, limit: int) -> list[list[Hit]]:
        size = len(self._entries)
        if not self._row:
            return [[] for _ in queries]
        alive = self._alive[:size]
        cosines_QN = None
        if alpha > 0:
            cosines_QN = np.stack([q.vector for q in queries]) @ self._vectors_ND[:size].T
            cosines_QN[:, ~alive] = -np.inf
        norms = K1 * (1 - B + B * self._lengths[:size] / max(float(self._lengths[:size][alive].mean()), 1e-9))
        found = []
        for n, query in enumerate(queries):
            lists = []
            if alpha < 1:
                scores = self._bm25(query.text, alive, norms)
                near = best(scores, CANDIDATES)
                lists.append((1 - alpha, near, scores[near]))
            if cosines_QN is not None:
                near = best(cosines_QN[n], CANDIDATES)
                lists.append((alpha, near, cosines_QN[n][near]))
            hits = (Hit(self._entries[row].id, score) for row, score in relative_score(lists).items())
            found.append(sorted(hits, key=lambda h: (-h.score, h.id))[:limit])
        return found

    def _bm25(self, text: str, alive: npt.NDArray[np.bool_], norms: Scores) -> Scores:
        """Score by row; -inf where no word of `text` occurs."""
        scores: Scores = np.full(len(alive), -np.inf, dtype=np.float32)
        for word, asked in Counter(words(text)).items():
            postings = self._postings.get(word)
            if postings is None:
                continue
            rows = np.array(postings.rows)
            counts = np.array(postings.counts, dtype=np.float32)
            here = alive[rows]
            rows, counts = rows[here], counts[here]
            weight = asked * idf(len(self._row), len(rows))
            scores[rows] = np.maximum(scores[rows], 0.0) + weight * counts / (counts + norms[rows])
        return scores

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

    def seq(self, bank: str, level: Level) -> int:
        with self._lock:
            shelf = self._shelves.get((bank, level))
            return shelf.seq if shelf else 0

    def apply(
        self, bank: str, level: Level, entries: Sequence[Entry], vectors_ND: Rows, gone: Sequence[str], seq: int
    ) -> None:
        with self._lock:
            shelf = self._shelves.setdefault((bank, level), _Shelf())
            shelf.apply(entries, vectors_ND, gone)
            shelf.seq = seq

    def search(self, bank: str, level: Level, queries: Sequence[Query], alpha: float, limit: int) -> list[list[Hit]]:
        with self._lock:
            shelf = self._shelves.get((bank, level))
            return shelf.search(queries, alpha, limit) if shelf else [[] for _ in queries]

    def versions(self, bank: str, level: Level) -> dict[str, int]:
        with self._lock:
            shelf = self._shelves.get((bank, level))
            return shelf.versions() if shelf else {}

    def drop(self, bank: str) -> None:
        with self._lock:
            self._shelves = {key: shelf for key, shelf in self._shelves.items() if key[0] != bank}
