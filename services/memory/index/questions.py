"""The questions of a bank by how alike they are, in memory: for each bank they follow the problems that the ledger has.

Invariants:
- Problems are only added to a bank: what is known stays, and `Questions.near` reads what came since.
- Every question is compared with every other (exact), without the options that it gives; equals are in the order of
  their problems' ids.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pmd.services.common.wire import Problem
from pmd.services.memory.evidence.terms import stem
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.index.index import head
from pmd.services.memory.index.vectors import Vectors
from pmd.services.memory.ledger import Ledger, fingerprint, reads

SHARING = 3
"""Problems that are remembered by their answer: with the one that asks, more than enough to say that others have it."""
DIGITS = 4
"""Similarities are the same that differ in none of these."""


class Near:
    """The other problems of a bank by the similarity of their questions to one."""

    def __init__(self, ids: Sequence[str], likeness_N: npt.NDArray[np.float64], *, common_answer: bool) -> None:
        self._ids = ids
        self._likeness_N = np.round(likeness_N, DIGITS)
        self._count = int(np.isfinite(likeness_N).sum())
        self.common_answer = common_answer
        """Two other problems or more have its answer."""

    def first(self, count: int) -> list[tuple[float, str]]:
        """The nearest, each with its similarity: at least `count` or all."""
        if not (count := min(count, self._count)):
            return []
        likeness_N = self._likeness_N
        floor = np.partition(likeness_N, len(likeness_N) - count)[len(likeness_N) - count]
        rows = np.flatnonzero(likeness_N >= floor)
        found = ((round(float(likeness_N[row]), DIGITS), self._ids[row]) for row in rows.tolist())
        return sorted(found, key=lambda pair: (-pair[0], pair[1]))


class _Bank:
    """The questions of one bank. Its lock is the caller's to hold."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.seq = -1
        self._ids: list[str] = []
        self._rows_ND: Rows = np.zeros((0, 0), dtype=np.float32)
        self._row: dict[str, int] = {}
        self._asking: dict[str, list[int]] = defaultdict(list)
        """Rows by the question in whatever spelling."""
        self._sharing: dict[str, set[str]] = defaultdict(set)
        """Some of the problems by their answer."""

    def follow(self, ledger: Ledger, bank: str, vectors: Vectors, check: Callable[[], None]) -> None:
        """Take in the problems that came since."""
        with ledger.read() as db:
            if reads.seq(db, bank) < self.seq:  # of a bank that was deleted since
                self._clear()
            came = reads.problems_since(db, bank, self.seq)
        if not came:
            return
        problems = [Problem.model_validate_json(body) for _, _, body in came]
        rows_MD = vectors.of([head(stem(p.question())) for p in problems], check)
        size = len(self._ids)
        if size + len(problems) > len(self._rows_ND):
            wider = np.zeros((max(2 * size, size + len(problems)), rows_MD.shape[1]), dtype=np.float32)
            if size:
                wider[:size] = self._rows_ND[:size]
            self._rows_ND = wider
        self._rows_ND[size : size + len(problems)] = rows_MD
        for row, problem in enumerate(problems, size):
            self._ids.append(problem.id)
            self._row[problem.id] = row
            self._asking[fingerprint(problem.question())].append(row)
            if (answer := _answer(problem)) and len(self._sharing[answer]) < SHARING:
                self._sharing[answer].add(problem.id)
        self.seq = max(seq for _, seq, _ in came)

    def near(self, problems: Sequence[Problem], rows_PD: Rows, floor: float) -> dict[str, Near]:
        """See `Questions.near`."""
        if not self._ids:
            return {}
        near = {}
        for problem, likeness_N in zip(problems, rows_PD @ self._rows_ND[: len(self._ids)].T, strict=True):
            likeness = likeness_N.astype(np.float64)
            likeness[likeness_N < floor] = -np.inf
            likeness[self._asking.get(fingerprint(problem.question()), [])] = -np.inf
            likeness[self._row.get(problem.id, [])] = -np.inf
            others = self._sharing.get(_answer(problem) or "", set()) - {problem.id}
            near[problem.id] = Near(self._ids, likeness, common_answer=len(others) >= 2)
        return near


def _answer(problem: Problem) -> str | None:
    """A problem's answer, if its verifier has one."""
    spec = problem.verifier
    answer = spec.get("answer", spec.get("reference"))
    return None if answer is None else json.dumps([spec.get("kind"), answer], sort_keys=True, default=str)


class Questions:
    """The questions of all banks, by one embedder; thread-safe."""

    def __init__(self, ledger: Ledger, vectors: Vectors) -> None:
        self._ledger = ledger
        self._vectors = vectors
        self._banks: dict[str, _Bank] = defaultdict(_Bank)
        self._lock = threading.Lock()

    def near(
        self, bank: str, problems: Sequence[Problem], floor: float, check: Callable[[], None] = lambda: None
    ) -> dict[str, Near]:
        """For each problem the others of the bank that ask the like, down to the similarity `floor`.

        What asks the same in the same words is left out: its answer is the problem's own.

        Raises:
            EmbedderDown: when questions must be embedded and the embedder is out of reach.
            Whatever `check` raises.
        """
        rows_PD = self._vectors.of([head(stem(p.question())) for p in problems], check)
        with self._lock:
            here = self._banks[bank]
        with here.lock:
            here.follow(self._ledger, bank, self._vectors, check)
            return here.near(problems, rows_PD, floor)

    def drop(self, bank: str) -> None:
        """Forget a bank."""
        with self._lock:
            self._banks.pop(bank, None)
