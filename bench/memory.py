"""Memory: write, retrieve and edit, ours beside Chroma, Qdrant's local mode and LanceDB, in turn in one process.

    python -m bench.memory --sizes 1000 10000 100000
    python -m bench.memory --sizes 1000 --peers none --http
    python -m bench.memory_jobs --sizes 1000 10000 100000     what a step's jobs cost, by the size of the bank

Every store holds the same texts with the same vectors (384 dimensions, 200 topics) and answers the same questions.
Ours does more for its time: each write is a transaction with versions, provenance and audit, and each search reads
the ledger's `seq` and the items that it shows. Rounds are interleaved over the stores; medians are shown:
milliseconds that passed, and after the stroke those that processors worked for this process, all its threads counted.
On a machine that others use too, the latter say more. Through HTTP only the former can be known. Peers are measured
where they are installed: `pip install -e ".[bench]"` into an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np

from bench.peers import PEERS, TOPICS, Ours, Record, Store, embed, nearest
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.ledger import Item, Ledger

K = 10
BATCH = 32
TOKEN = "a-token-of-this-benchmark"  # noqa: S105 -- of a service on loopback, for minutes
WORDS = [f"w{n}" for n in range(2000)]


def corpus(size: int, seed: int = 0) -> list[Record]:
    """Texts of about 30 words; rare and common words as in language (Zipf)."""
    chance = np.random.default_rng(seed)
    ranks = np.minimum(chance.zipf(1.3, (size, 30)), len(WORDS)) - 1
    return [
        Record(str(n + 1), f"topic{n % TOPICS} number{n}s{seed} " + " ".join(WORDS[r] for r in row))
        for n, row in enumerate(ranks)
    ]


class Clock:
    """Times by name, in milliseconds: of the clock, and of the processors."""

    def __init__(self) -> None:
        self.times: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.worked: dict[tuple[str, str], list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def measure(self, store: str, what: str) -> Iterator[None]:
        """Add the time of the block."""
        began, worked = time.perf_counter(), time.process_time()
        yield
        self.times[store, what].append((time.perf_counter() - began) * 1e3)
        self.worked[store, what].append((time.process_time() - worked) * 1e3)

    def median(self, store: str, what: str) -> float:
        """The middle time."""
        return statistics.median(self.times[store, what])

    def both(self, store: str, what: str) -> str:
        """The middle times, as a cell of the table."""
        return f"{self.median(store, what):.1f} / {statistics.median(self.worked[store, what]):.1f}"


def make(stores: list[Callable[[], Store]], records: list[Record], rows: Rows, clock: Clock) -> list[Store]:
    """Open and fill every store; one that isn't installed is named and left out."""
    made = []
    for build in stores:
        try:
            store = build()
        except ImportError as error:
            print(f"not installed, left out: {error.name}", file=sys.stderr)
            continue
        with clock.measure(store.name, "load"):
            store.load(records, rows)
        made.append(store)
    return made


def in_turn(stores: list[Store], n: int) -> list[Store]:
    """The stores, another one first each time: threads of the one before may still be spinning."""
    n %= len(stores)
    return stores[n:] + stores[:n]


def measure(stores: list[Callable[[], Store]], size: int, rounds: int) -> None:
    """Measure all stores at one size and print a table."""
    clock = Clock()
    records = corpus(size)
    rows = embed([r.text for r in records])
    asked = corpus(rounds * BATCH, seed=1)
    texts = [r.text for r in asked]
    queries = embed(texts)
    truth = nearest(queries, rows, K) + 1
    opened = make(stores, records, rows, clock)
    recalls: dict[str, list[float]] = defaultdict(list)
    for n in range(rounds):
        part = slice(n * BATCH, (n + 1) * BATCH)
        for store in in_turn(opened, n):
            with clock.measure(store.name, "single"):
                store.search(queries[part][:1], texts[part][:1], K)
            with clock.measure(store.name, "batch"):
                found = store.search(queries[part], texts[part], K)
            want = [set(map(str, t)) for t in truth[part].tolist()]
            recalls[store.name] += [len(w & set(f)) / K for w, f in zip(want, found, strict=True)]
    for n in range(rounds):
        changed = Record(str(n + 1), f"topic{n % TOPICS} edited{n} again")
        row = embed([changed.text])[0]
        for store in in_turn(opened, n):
            with clock.measure(store.name, "edit"):
                store.edit(changed, row)
                (found_key,) = store.search(row[None], [changed.text], 1)[0]
            assert found_key == changed.key, f"{store.name} does not find what was edited"
    print(f"\n{size:,} items, median of {rounds}; ms / processor ms")
    print(f"{'':28}{'load items/s':>14}{'single':>16}{f'batch {BATCH}':>18}{'edit+find':>18}{'recall@10':>11}")
    for store in opened:
        single, batch, edit = (clock.both(store.name, what) for what in ("single", "batch", "edit"))
        rate = size / clock.median(store.name, "load") * 1e3
        # Hybrid search answers another question than the nearest vectors.
        recall = "-" if "hybrid" in store.name else f"{statistics.mean(recalls[store.name]):.3f}"
        print(f"{store.name:28}{rate:14,.0f}{single:>16}{batch:>18}{edit:>18}{recall:>11}", flush=True)


def over_http(size: int, rounds: int, folder: Path) -> None:
    """The service in its own process, with the hash embedder: a batch of questions in one request."""
    state = folder / "service"
    (state / "memory").mkdir(parents=True)
    ledger = Ledger(f"sqlite:///{state / 'memory' / 'ledger.db'}")
    items = [
        Item(level="behavior", kind="behavior", scope=r.key, text=r.text, step=1, policy_version=0)
        for r in corpus(size)
    ]
    ledger.apply("bench", "load", lambda tx: tx.write(items, "bench"))
    port = 18000 + os.getpid() % 2000
    environment = {**os.environ, "PMD_TOKEN": TOKEN, "PMD_STATE_DIR": str(state)}
    argv = (sys.executable, "-m", "pmd.services.memory", "--port", str(port))
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as service:
        try:
            client = httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=600.0
            )
            _wait(client, service)
            clock = Clock()
            texts = [r.text for r in corpus(8 * BATCH, seed=1)]
            asked = [texts[n : n + BATCH] for n in range(0, len(texts), BATCH)]
            body = {"level": "behavior", "limit": K}

            def ask(mode: str, questions: list[str]) -> httpx.Response:
                return client.post("/v1/banks/bench/search", json=body | {"mode": mode, "queries": questions})

            for questions in asked:  # the first search indexes the bank, in pieces; each question is embedded once
                while ask("hybrid", questions).status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    continue
            for n in range(rounds):
                for mode in ("vector", "hybrid"):
                    for what, count in (("single", 1), ("batch", BATCH)):
                        with clock.measure(mode, what):
                            ask(mode, asked[n % len(asked)][:count]).raise_for_status()
            for mode in ("vector", "hybrid"):
                single, batch = clock.median(mode, "single"), clock.median(mode, "batch")
                print(f"{f'pmd exact ({mode}), HTTP':28}{'':14}{single:16.1f}{batch:18.1f}", flush=True)
        finally:
            service.terminate()


def _wait(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert service.poll() is None, "the memory service ended"
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").is_success:
                return
        time.sleep(0.2)
    raise TimeoutError("the memory service does not start")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, "none"], default=list(PEERS))
    parser.add_argument("--http", action="store_true", help="also through the service, hybrid, with the hash embedder")
    given = parser.parse_args()
    for size in given.sizes:
        folder = Path(tempfile.mkdtemp(prefix="bench-memory-"))
        try:
            for name in ("vector", "hybrid"):
                (folder / name).mkdir()
            stores: list[Callable[[], Store]] = [
                lambda: Ours(folder / "vector"),  # noqa: B023 -- called within the iteration
                lambda: Ours(folder / "hybrid", alpha=0.5),  # noqa: B023
                *((lambda name=name: PEERS[name](folder)) for name in given.peers if name != "none"),  # noqa: B023
            ]
            measure(stores, size, given.rounds)
            if given.http:
                over_http(size, given.rounds, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
