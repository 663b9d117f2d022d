"""Finding memories by meaning and by words: one embedder, one index, and what happens when either changes or fails.

Invariants:
- A search sees every change that was in the ledger when it began: the level is caught up first.
- When the index is out of reach the embedded one answers from the same ledger by the same rules, and the answer says
  so. From then on nobody waits for the index until it answers a ping again.
- A change of embedder is one assignment: until every text that the old one had embedded is embedded by the new one,
  and the new index holds what the old one held, all reads use the old one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from prometheus_client import Counter, Gauge
from pydantic import SecretStr

from pmd.services.common.jobs import Retryable
from pmd.services.common.waiting import Away
from pmd.services.common.wire import Level
from pmd.services.memory.index.embedders import EmbedderSpec
from pmd.services.memory.index.exact import ExactIndex
from pmd.services.memory.index.index import Hit, Index, IndexDown, Query, catch_up, entries, head
from pmd.services.memory.index.questions import Questions
from pmd.services.memory.index.vectors import VectorFile, Vectors
from pmd.services.memory.ledger import Ledger
from pmd.services.memory.settings import MemoryServiceSettings

log = logging.getLogger(__name__)

FALLBACKS = Counter("pmd_memory_index_fallbacks_total", "Searches that the embedded index answered for another one")
DEGRADED = Gauge("pmd_memory_index_degraded", "1 while the configured index is out of reach")

TEND_EVERY_S = 5.0
LOCK_S = 0.5
LEVELS: tuple[Level, ...] = ("behavior", "insight", "experience")


class Remote(Index, Protocol):
    """An index in another process."""

    def ping(self) -> None:
        """Return when it can work; raises `IndexDown`."""
        ...

    def drop_generation(self) -> None:
        """Forget everything that this embedder's vectors are of."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


MakeRemote = Callable[[str], "Remote | None"]
"""An index for the vectors of an embedder id; None in the embedded profile."""


@dataclass(frozen=True)
class Generation:
    """All that belongs to one embedder."""

    spec: EmbedderSpec
    vectors: Vectors
    exact: ExactIndex
    questions: Questions
    remote: Remote | None


@dataclass(frozen=True)
class Found:
    """What a search found."""

    hits: list[list[Hit]]
    """One list per query, best first, with their cosines where they were wanted."""
    embedder: str
    """The embedder that was in force."""
    index: str
    degraded: bool
    """The configured index was out of reach."""


class Behind(Away):
    """The search's time was up before the index had caught up with the ledger."""


class Search:
    """Searches banks; thread-safe."""

    def __init__(
        self, ledger: Ledger, file: VectorFile, spec: EmbedderSpec, key: SecretStr, make_remote: MakeRemote
    ) -> None:
        """Use the embedder that was in force before, if there was one, and `spec` once that is ready.

        Raises:
            ValueError: when `spec` can't be used as given.
        """
        self._ledger = ledger
        self._file = file
        self._key = key
        self._make_remote = make_remote
        self._locks: dict[tuple[str, str], threading.RLock] = defaultdict(threading.RLock)
        self._down = ""
        self._progress = ""
        self._stop = threading.Event()
        self._tender: threading.Thread | None = None
        wanted = self._generation(spec)
        self._now, self._next = wanted, None
        before = self._before(wanted)
        if before is not None:
            self._now, self._next = before, wanted
        elif file.active() != spec.model_dump_json():
            file.activate(spec.model_dump_json(), wanted.vectors.id)

    def _generation(self, spec: EmbedderSpec) -> Generation:
        embedder = spec.build(self._key)
        vectors = Vectors(self._file, embedder)
        questions = Questions(self._ledger, vectors)
        return Generation(spec, vectors, ExactIndex(), questions, self._make_remote(embedder.id))

    def _before(self, wanted: Generation) -> Generation | None:
        """The generation that reads used so far, when it is another one and still works."""
        known = self._file.active()
        if known is None or known == wanted.spec.model_dump_json():
            return None
        try:
            before = self._generation(EmbedderSpec.model_validate_json(known))
        except ValueError as error:
            log.warning(
                "the embedder used so far can't be loaded; texts are embedded anew as they are needed: %s", error
            )
            return None
        return before if before.vectors.id != wanted.vectors.id else None

    @property
    def vectors(self) -> Vectors:
        """Of the embedder in force."""
        return self._now.vectors

    @property
    def questions(self) -> Questions:
        """By the embedder in force."""
        return self._now.questions

    def start(self) -> None:
        """Look after the index and the change of embedder in the background."""
        if self._now.remote is not None or self._next is not None:
            self._tender = threading.Thread(target=self._tend, name="memory-index", daemon=True)
            self._tender.start()

    def close(self) -> None:
        """Stop; what the background had embedded stays known."""
        self._stop.set()
        if self._tender is not None:
            self._tender.join(timeout=TEND_EVERY_S)
        for generation in (self._now, self._next):
            if generation is not None and generation.remote is not None:
                generation.remote.close()

    def release(self, bank: str) -> None:
        """Free the memory of a bank's embedded index; the next search builds it again from the ledger."""
        exact = self._now.exact
        self._now.questions.drop(bank)
        with self._locks[bank, exact.name]:
            exact.drop(bank)

    def status(self) -> dict[str, Any]:
        """Facts for `/readyz`."""
        now, coming = self._now, self._next
        facts: dict[str, Any] = {
            "index": now.remote.name if now.remote else now.exact.name,
            "embedder": now.vectors.id,
        }
        if now.remote is not None:
            facts |= {"index_degraded": bool(self._down)}
        if self._down:
            facts |= {"index_problem": f"{self._down}; the embedded index answers until it is back"}
        if coming is not None:
            facts |= {"embedder_next": coming.vectors.id, "reembedding": self._progress or "about to begin"}
        return facts

    def find(
        self,
        bank: str,
        level: Level,
        texts: Sequence[str],
        *,
        alpha: float,
        limit: int,
        compare: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> Found:
        """The items of a bank's level that are most like each text.

        Args:
            compare: give cosines at alpha 0 too, which else needs no embedder.

        Raises:
            EmbedderDown: when the embedder is out of reach; there is no other one to fall back to.
            Whatever `check` raises.
        """
        now = self._now
        asked = [head(text) for text in texts]
        compare = compare or alpha > 0
        rows = now.vectors.of(asked, check) if compare else [np.zeros(0, dtype=np.float32)] * len(asked)
        queries = [Query(text, row) for text, row in zip(asked, rows, strict=True)]
        if now.remote is not None and not self._down:
            try:
                hits = self._ask(now, now.remote, bank, level, queries, alpha, limit, check)
                hits = self._compared(now, bank, queries, hits) if compare else hits
                return Found(hits, now.vectors.id, now.remote.name, degraded=False)
            except IndexDown as error:
                self._mark(str(error))
        degraded = now.remote is not None
        if degraded:
            FALLBACKS.inc()
        hits = self._ask(now, now.exact, bank, level, queries, alpha, limit, check)
        return Found(hits, now.vectors.id, now.exact.name, degraded)

    def _ask(
        self,
        now: Generation,
        index: Index,
        bank: str,
        level: Level,
        queries: Sequence[Query],
        alpha: float,
        limit: int,
        check: Callable[[], None],
    ) -> list[list[Hit]]:
        lock = self._locks[bank, index.name]
        while not lock.acquire(timeout=LOCK_S):  # somebody else catches up, which may take long
            check()
        try:
            catch_up(self._ledger, index, now.vectors, bank, level, check)
        finally:
            lock.release()
        return index.search(bank, level, queries, alpha, limit)

    def _compared(
        self, now: Generation, bank: str, queries: Sequence[Query], found: Sequence[Sequence[Hit]]
    ) -> list[list[Hit]]:
        """Hits with their cosines. What the ledger does not hold any more is left out."""
        items = self._ledger.items(bank, list({hit.id for hits in found for hit in hits}))
        held = entries(self._ledger, bank, list(items.values()))
        row = {entry.id: n for n, entry in enumerate(held)}
        rows = now.vectors.of([entry.document for entry in held])
        compared = []
        for query, hits in zip(queries, found, strict=True):
            there = [hit for hit in hits if hit.id in row]
            cosines = (rows[[row[hit.id] for hit in there]] @ query.vector).tolist() if there else []
            compared.append([replace(hit, cosine=c) for hit, c in zip(there, cosines, strict=True)])
        return compared

    def delete(self, bank: str, seqs: frozenset[int] | None = None) -> None:
        """Forget a bank that is at one of `seqs`: in the index first, then in the ledger, so that no index outlives its
        bank. One that moves on in between is kept, and indexed anew when it is next searched.

        Raises:
            BankMoved: when it is at another `seq`.
            IndexDown: when the index is out of reach; nothing is forgotten then.
            UnknownBank: when there is none.
        """
        self._ledger.check(bank, seqs)
        now = self._now
        indexes: list[Index] = [now.exact, *([now.remote] if now.remote else [])]
        locks = [self._locks[bank, index.name] for index in indexes]
        for lock in locks:
            lock.acquire()
        try:
            for index in reversed(indexes):
                index.drop(bank)
            now.questions.drop(bank)
            self._ledger.delete(bank, seqs)
        finally:
            for lock in reversed(locks):
                lock.release()

    def rebuild(self, bank: str, level: Level, check: Callable[[], None] = lambda: None) -> int:
        """Bring the configured index up to the ledger; call `drop` on it first to begin anew. Returns its `seq`."""
        now = self._now
        index: Index = now.remote or now.exact
        with self._locks[bank, index.name]:
            return catch_up(self._ledger, index, now.vectors, bank, level, check)

    @property
    def index(self) -> Index:
        """The configured index."""
        return self._now.remote or self._now.exact

    def _mark(self, problem: str) -> None:
        if bool(problem) != bool(self._down):
            log.warning("index out of reach: %s", problem) if problem else log.info("index is back")
        self._down = problem
        DEGRADED.set(bool(problem))

    # ------------------------------------------------------------------ in the background

    def _tend(self) -> None:
        while not self._stop.is_set():
            remote = self._now.remote
            if remote is not None:
                try:
                    remote.ping()
                    self._mark("")
                except IndexDown as error:
                    self._mark(str(error))
            if self._next is not None:
                self._try_switch(self._next)
            elif self._now.remote is None:
                return
            self._stop.wait(TEND_EVERY_S)

    def _try_switch(self, coming: Generation) -> None:
        try:
            self.switch(coming)
        except Retryable as error:
            log.warning("the change of embedder waits: %s", error)
        except _Stopped:
            pass
        except Exception:  # the old embedder stays in force, which is safe; the log has the cause
            log.exception(
                "the change to embedder %s failed; %s stays in force", coming.vectors.id, self._now.vectors.id
            )
            self._next = None

    def switch(self, coming: Generation) -> None:
        """Embed with the new embedder all that the old one had embedded, then make it the one in force."""

        def check() -> None:
            if self._stop.is_set():
                raise _Stopped

        old = self._now
        for bank in self._ledger.banks():
            for level in LEVELS:
                documents = [e.document for e in entries(self._ledger, bank, self._ledger.active(bank, level))]
                held = old.vectors.known(documents)
                for done in range(0, len(held), 256):
                    self._progress = f"{bank}/{level}: {done} of {len(held)}"
                    coming.vectors.of(held[done : done + 256], check)
                if coming.remote is not None and old.remote is not None and old.remote.seq(bank, level):
                    catch_up(self._ledger, coming.remote, coming.vectors, bank, level, check)
        self._now, self._next = coming, None
        self._file.activate(coming.spec.model_dump_json(), coming.vectors.id)
        log.info("embedder changed", extra={"embedder": coming.vectors.id, "before": old.vectors.id})
        if old.remote is not None:
            old.remote.drop_generation()


class _Stopped(Exception):
    """The service is closing."""


def within(seconds: float) -> Callable[[], None]:
    """A check that stops a search which takes longer than `seconds`.

    Raises:
        Behind: from the check, when the time is up.
    """
    deadline = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > deadline:
            raise Behind("the index is catching up with the ledger; what is done is kept, ask again in a moment")

    return check


def open_search(ledger: Ledger, settings: MemoryServiceSettings) -> Search:
    """The search that `settings` ask for, its vectors in the service's own folder."""

    def remote(embedder_id: str) -> Remote | None:
        if settings.memory_index == "exact":
            return None
        from pmd.services.memory.index.weaviate import WeaviateIndex  # noqa: PLC0415 -- a laptop starts without it

        key = settings.weaviate_api_key.get_secret_value()
        return WeaviateIndex(settings.weaviate_url, settings.weaviate_grpc, key, embedder_id)

    file = VectorFile(settings.service_dir("memory") / "vectors.db")
    return Search(ledger, file, settings.embedder(), settings.memory_embedder_key, remote)
