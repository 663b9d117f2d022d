"""Stores of vectors and texts behind one small interface: ours, and the peers that are installed.

Each is used the way its own documentation shows first, on disk, with exact or default search; what it needs to make
a change visible to the next query is part of the change.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pmd.services.memory.index.embed import Rows, unit
from pmd.services.memory.index.exact import ExactIndex
from pmd.services.memory.index.index import Index, Query, catch_up
from pmd.services.memory.index.vectors import VectorFile, Vectors
from pmd.services.memory.ledger import Item, Ledger, Transaction, reads

DIM = 384
TOPICS = 200


@dataclass(frozen=True)
class Record:
    """What is stored."""

    key: str
    text: str


def embed(texts: Sequence[str]) -> Rows:
    """Vectors that cluster as those of real texts do: a topic, which the text's first word names, and noise."""
    rows = np.empty((len(texts), DIM), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        topic = np.random.default_rng(_seed(text.split(maxsplit=1)[0])).standard_normal(DIM)
        row[:] = topic + np.random.default_rng(_seed(text)).standard_normal(DIM)
    return unit(rows)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Store(Protocol):
    """A store of one collection."""

    name: str

    def load(self, records: Sequence[Record], rows: Rows) -> None:
        """Add many."""
        ...

    def edit(self, record: Record, row: Rows) -> None:
        """Replace the text and vector of a key."""
        ...

    def search(self, rows: Rows, texts: Sequence[str], k: int) -> list[list[str]]:
        """Keys of the nearest `k` of each row, best first."""
        ...


class Ours:
    """Ledger, vectors by content, and an index; by meaning alone, or hybrid."""

    def __init__(self, folder: Path, index: Index | None = None, alpha: float = 1.0) -> None:
        self._ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self._index = index or ExactIndex()
        kind = "hybrid" if alpha < 1 else "vector"
        self.name = f"pmd {self._index.name} ({kind})"
        self._vectors = Vectors(VectorFile(folder / "vectors.db"), _Embedder())
        self._alpha = alpha
        self._ids: dict[str, str] = {}
        self._writes = 0

    def load(self, records: Sequence[Record], rows: Rows) -> None:  # noqa: ARG002 -- embeds, as it does in service
        self._change([self._item(r) for r in records], [])

    def edit(self, record: Record, row: Rows) -> None:  # noqa: ARG002
        old = self._ledger.items("bench", [self._ids[record.key]])
        self._change([self._item(record)], list(old.values()))

    def search(self, rows: Rows, texts: Sequence[str], k: int) -> list[list[str]]:
        catch_up(self._ledger, self._index, self._vectors, "bench", "behavior")  # as every search does
        queries = [Query(text, row) for text, row in zip(texts, rows, strict=True)]
        found = self._index.search("bench", "behavior", queries, self._alpha, k)
        with self._ledger.read() as db:
            shown = reads.shown(db, "bench", list({h.id for hits in found for h in hits}))
        return [[shown[h.id].scope for h in hits] for hits in found]

    def _item(self, record: Record) -> Item:
        return Item(level="behavior", kind="behavior", scope=record.key, text=record.text, step=1, policy_version=0)

    def _change(self, new: list[Item], old: list[Item]) -> None:
        self._writes += 1

        def change(tx: Transaction) -> None:
            tx.set_status(old, "retired", 1, "bench")
            tx.write(new, "bench")

        self._ledger.apply("bench", f"w{self._writes}", change)
        self._ids |= {item.scope: item.identity("bench") for item in new}
        catch_up(self._ledger, self._index, self._vectors, "bench", "behavior")


class _Embedder:
    id = "bench"

    def embed(self, texts: Sequence[str]) -> Rows:
        return embed(texts)


class Chroma:
    """chromadb's PersistentClient."""

    def __init__(self, folder: Path) -> None:
        import chromadb  # noqa: PLC0415 -- only where it is installed

        self.name = f"chroma {version('chromadb')}"
        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(folder / "chroma"), settings=settings)
        self._items: Any = client.create_collection("bench", metadata={"hnsw:space": "cosine"}, embedding_function=None)

    def load(self, records: Sequence[Record], rows: Rows) -> None:
        for start in range(0, len(records), 5000):
            part = records[start : start + 5000]
            keys, texts = [r.key for r in part], [r.text for r in part]
            self._items.add(ids=keys, documents=texts, embeddings=rows[start : start + 5000])

    def edit(self, record: Record, row: Rows) -> None:
        self._items.update(ids=[record.key], documents=[record.text], embeddings=[row])

    def search(self, rows: Rows, texts: Sequence[str], k: int) -> list[list[str]]:  # noqa: ARG002
        return list(self._items.query(query_embeddings=rows, n_results=k, include=["documents"])["ids"])


class Qdrant:
    """qdrant-client's local mode."""

    def __init__(self, folder: Path) -> None:
        from qdrant_client import QdrantClient, models  # noqa: PLC0415 -- only where it is installed

        self.name = f"qdrant local {version('qdrant-client')}"
        self._models = models
        self._client = QdrantClient(path=str(folder / "qdrant"))
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        self._client.create_collection("bench", vectors_config=params)

    def load(self, records: Sequence[Record], rows: Rows) -> None:
        for start in range(0, len(records), 1000):
            self._put(records[start : start + 1000], rows[start : start + 1000])

    def edit(self, record: Record, row: Rows) -> None:
        self._put([record], row[None])

    def _put(self, records: Sequence[Record], rows: Rows) -> None:
        points = [
            self._models.PointStruct(id=int(r.key), vector=row.tolist(), payload={"text": r.text})
            for r, row in zip(records, rows, strict=True)
        ]
        self._client.upsert("bench", points)

    def search(self, rows: Rows, texts: Sequence[str], k: int) -> list[list[str]]:  # noqa: ARG002
        asked = [self._models.QueryRequest(query=row.tolist(), limit=k, with_payload=True) for row in rows]
        return [[str(p.id) for p in a.points] for a in self._client.query_batch_points("bench", asked)]


class Lance:
    """lancedb, flat search."""

    def __init__(self, folder: Path) -> None:
        import lancedb  # noqa: PLC0415 -- only where it is installed

        self.name = f"lancedb {version('lancedb')}"
        self._db = lancedb.connect(str(folder / "lance"))
        self._table: Any = None

    def load(self, records: Sequence[Record], rows: Rows) -> None:
        data = [{"key": r.key, "text": r.text, "vector": row} for r, row in zip(records, rows, strict=True)]
        if self._table is None:
            self._table = self._db.create_table("bench", data)
        else:
            self._table.add(data)

    def edit(self, record: Record, row: Rows) -> None:
        self._table.update(where=f"key = '{record.key}'", values={"text": record.text, "vector": row.tolist()})

    def search(self, rows: Rows, texts: Sequence[str], k: int) -> list[list[str]]:  # noqa: ARG002
        def one(row: Rows) -> list[str]:
            found = (
                self._table.search(row).distance_type("cosine").select(["key", "text", "_distance"]).limit(k).to_list()
            )
            return [str(r["key"]) for r in found]

        return [one(row) for row in rows]


PEERS: dict[str, Callable[[Path], Store]] = {"chroma": Chroma, "qdrant": Qdrant, "lancedb": Lance}


def nearest(rows: Rows, corpus: Rows, k: int) -> npt.NDArray[np.int64]:
    """Positions of the true nearest `k` of each row, [queries, k]."""
    order: npt.NDArray[np.int64] = np.argsort(-(rows @ corpus.T), axis=1, kind="stable")[:, :k]
    return order
