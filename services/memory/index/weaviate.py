"""The cluster's index: Weaviate, one tenant per bank, vectors of our own.

Invariants:
- One collection per level and embedder (`PmdInsight_1a2b3c4d`): vectors of two embedders never meet, and a change of
  embedder fills new collections beside the old ones.
- An object's id is a function of its item's id, so writing twice is writing once. Where a level stands (`PmdMarks`)
  is written after the objects: what broke off half-way is done again, never skipped.
- Every answer that can fail in part (batches, bulk deletes) is checked; a failure is `IndexDown`, with its cause.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx
import weaviate
from weaviate.classes.config import Configure, DataType, Property, StopwordsPreset, Tokenization, VectorDistances
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Auth, GrpcConfig, Timeout
from weaviate.classes.query import Filter, HybridFusion, MetadataQuery
from weaviate.exceptions import WeaviateBaseError

from pmd.services.common.outgoing import shown
from pmd.services.common.wire import Level
from pmd.services.memory.index.embed import Rows
from pmd.services.memory.index.fusion import K1, B, words
from pmd.services.memory.index.index import CANDIDATES, Entry, Hit, IndexDown, Query

MARKS = "PmdMarks"
LEVELS: tuple[Level, ...] = ("experience", "insight", "behavior")
BATCH = 200
PARALLEL = 8
NO_PROXY = ("grpc.enable_http_proxy", 0)
"""Else the gRPC library asks the environment for one."""
_OBJECT = uuid.UUID("2f0d6d0e-4f0b-4a55-8e0f-6a5a3a3d9d11")
_TENANT = re.compile(r"^[A-Za-z0-9_-]{1,64}$")

F = TypeVar("F", bound=Callable[..., Any])


def _guarded(method: F) -> F:
    """Turn the client's errors into `IndexDown`, and connect anew after one."""

    @wraps(method)
    def guarded(self: WeaviateIndex, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except IndexDown:
            raise
        except (WeaviateBaseError, httpx.HTTPError, OSError) as error:
            self.close()
            cause = " ".join(str(error).split())[:300]
            raise IndexDown(f"Weaviate at {self.url} failed: {type(error).__name__}: {cause}") from error

    return cast(F, guarded)


def _name(name: str) -> Property:
    """A text property that is matched whole."""
    return Property(name=name, data_type=DataType.TEXT, tokenization=Tokenization.FIELD, index_searchable=False)


class WeaviateIndex:
    """Banks in a Weaviate server, for the vectors of one embedder."""

    name = "weaviate"

    def __init__(self, url: str, grpc: str, api_key: str, embedder_id: str) -> None:
        """Nothing is asked yet.

        Args:
            url: HTTP address, `http://host:8080`.
            grpc: gRPC address, `host:50051`; the scheme of `url` says whether it is encrypted.

        Raises:
            ValueError: when an address can't be read.
        """
        self.url = shown(url)
        parts, remote = urlsplit(url), urlsplit(f"//{grpc}")
        if parts.scheme not in {"http", "https"} or not parts.hostname or not remote.hostname or not remote.port:
            given = f"PMD_WEAVIATE_URL {self.url!r} (http://host:port) or PMD_WEAVIATE_GRPC {grpc!r} (host:port)"
            raise ValueError(f"{given} can't be read")
        self._secure = parts.scheme == "https"
        self._http = (parts.hostname, parts.port or (443 if self._secure else 80))
        self._grpc = (remote.hostname, remote.port)
        self._api_key = api_key
        self._generation = hashlib.sha256(embedder_id.encode()).hexdigest()[:8]
        self._client: weaviate.WeaviateClient | None = None
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="weaviate")

    def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @_guarded
    def ping(self) -> None:
        """Return when the server can work."""
        if not self._connect().is_ready():
            raise IndexDown(f"Weaviate at {self.url} is not ready")

    @_guarded
    def seq(self, bank: str, level: Level) -> int:
        found = self._connect().collections.use(MARKS).query.fetch_object_by_id(self._mark(bank, level))
        return int(str(found.properties["seq"])) if found else 0

    @_guarded
    def apply(
        self, bank: str, level: Level, entries: Sequence[Entry], vectors_ND: Rows, gone: Sequence[str], seq: int
    ) -> None:
        client = self._connect()
        whole = client.collections.use(self._collection(level))
        tenant = tenant_of(bank)
        whole.tenants.create([tenant])  # one that exists stays as it is
        mine = whole.with_tenant(tenant)
        for start in range(0, len(entries), BATCH):
            objects: list[Any] = [
                DataObject(
                    uuid=object_id(e.id),
                    properties={"item_id": e.id, "version": e.version, "document": e.document},
                    vector=row.tolist(),
                )
                for e, row in zip(entries[start : start + BATCH], vectors_ND[start : start + BATCH], strict=True)
            ]
            self._all_written(mine.data.insert_many(objects))
        for start in range(0, len(gone), BATCH):
            ids = [object_id(i) for i in gone[start : start + BATCH]]
            removed = mine.data.delete_many(where=Filter.by_id().contains_any(ids))
            if removed.failed:
                raise IndexDown(f"Weaviate at {self.url} could not remove {removed.failed} of {len(ids)} objects")
        mark: Any = DataObject(
            uuid=self._mark(bank, level),
            properties={"bank": bank, "level": level, "generation": self._generation, "seq": seq},
        )
        self._all_written(client.collections.use(MARKS).data.insert_many([mark]))

    @_guarded
    def search(self, bank: str, level: Level, queries: Sequence[Query], alpha: float, limit: int) -> list[list[Hit]]:
        if not self.seq(bank, level):
            return [[] for _ in queries]
        mine = self._connect().collections.use(self._collection(level)).with_tenant(tenant_of(bank))

        def ask(query: Query) -> list[Hit]:
            spoken = bool(words(query.text))
            if not spoken and not alpha:
                return []
            answer = mine.query.hybrid(
                query=query.text if spoken else "-",
                alpha=alpha if spoken else 1.0,
                vector=query.vector.tolist() if alpha else None,
                limit=CANDIDATES,
                fusion_type=HybridFusion.RELATIVE_SCORE,
                query_properties=["document"],
                return_properties=["item_id"],
                return_metadata=MetadataQuery(score=True),
            )
            scale = 1.0 if spoken else alpha
            hits = [Hit(str(o.properties["item_id"]), scale * (o.metadata.score or 0.0)) for o in answer.objects]
            return sorted(hits, key=lambda h: (-h.score, h.id))[:limit]

        return list(self._pool.map(ask, queries))

    @_guarded
    def versions(self, bank: str, level: Level) -> dict[str, int]:
        whole = self._connect().collections.use(self._collection(level))
        tenant = tenant_of(bank)
        if not whole.tenants.exists(tenant):
            return {}
        objects = whole.with_tenant(tenant).iterator(return_properties=["item_id", "version"], cache_size=1000)
        return {str(o.properties["item_id"]): int(str(o.properties["version"])) for o in objects}

    @_guarded
    def drop(self, bank: str) -> None:
        """Forget a bank, as every embedder has it."""
        client = self._connect()
        client.collections.use(MARKS).data.delete_many(where=Filter.by_property("bank").equal(bank))
        for name in client.collections.list_all():
            if name.startswith(tuple(f"Pmd{level.capitalize()}_" for level in LEVELS)):
                client.collections.use(name).tenants.remove([tenant_of(bank)])

    @_guarded
    def drop_generation(self) -> None:
        """Forget all banks as this index's embedder has them."""
        client = self._connect()
        mine = Filter.by_property("generation").equal(self._generation)
        client.collections.use(MARKS).data.delete_many(where=mine)
        client.collections.delete([self._collection(level) for level in LEVELS])
        self.close()

    def _collection(self, level: Level) -> str:
        return f"Pmd{level.capitalize()}_{self._generation}"

    def _mark(self, bank: str, level: Level) -> uuid.UUID:
        return uuid.uuid5(_OBJECT, f"{self._generation}/{level}/{bank}")

    def _all_written(self, answer: Any) -> None:
        if answer.has_errors:
            first = next(iter(answer.errors.values()))
            raise IndexDown(f"Weaviate at {self.url} refused {len(answer.errors)} objects: {first.message}")

    def _connect(self) -> weaviate.WeaviateClient:
        with self._lock:
            if self._client is None:
                client = weaviate.connect_to_custom(
                    http_host=self._http[0],
                    http_port=self._http[1],
                    http_secure=self._secure,
                    grpc_host=self._grpc[0],
                    grpc_port=self._grpc[1],
                    grpc_secure=self._secure,
                    auth_credentials=Auth.api_key(self._api_key) if self._api_key else None,
                    additional_config=AdditionalConfig(
                        timeout=Timeout(init=5, query=20, insert=60),
                        trust_env=False,
                        grpc_config=GrpcConfig(channel_options=[NO_PROXY]),
                    ),
                )
                try:
                    self._ensure_schema(client)
                except BaseException:
                    client.close()
                    raise
                self._client = client
            return self._client

    def _ensure_schema(self, client: weaviate.WeaviateClient) -> None:
        """Create the collections that are missing; another process may do so at the same time."""
        wanted: dict[str, dict[str, Any]] = {
            MARKS: {
                "vector_config": Configure.Vectors.self_provided(
                    vector_index_config=Configure.VectorIndex.flat(distance_metric=VectorDistances.COSINE)
                ),
                "properties": [
                    *(_name(n) for n in ("bank", "level", "generation")),
                    Property(name="seq", data_type=DataType.INT, index_filterable=False),
                ],
            }
        }
        for level in LEVELS:
            wanted[self._collection(level)] = {
                "vector_config": Configure.Vectors.self_provided(
                    vector_index_config=Configure.VectorIndex.flat(distance_metric=VectorDistances.COSINE)
                ),
                "inverted_index_config": Configure.inverted_index(
                    bm25_k1=K1, bm25_b=B, stopwords_preset=StopwordsPreset.NONE
                ),
                "multi_tenancy_config": Configure.multi_tenancy(enabled=True, auto_tenant_activation=True),
                "properties": [
                    Property(
                        name="document",
                        data_type=DataType.TEXT,
                        tokenization=Tokenization.WORD,
                        index_searchable=True,
                        index_filterable=False,
                    ),
                    _name("item_id"),
                    Property(name="version", data_type=DataType.INT, index_filterable=False),
                ],
            }
        for name, settings in wanted.items():
            if not client.collections.exists(name):
                try:
                    client.collections.create(name, **settings)
                except WeaviateBaseError:
                    if not client.collections.exists(name):
                        raise


def object_id(item_id: str) -> uuid.UUID:
    """The Weaviate id of an item."""
    return uuid.uuid5(_OBJECT, item_id)


def tenant_of(bank: str) -> str:
    """The tenant of a bank: its name, or a hash where Weaviate's rules for names are narrower than ours."""
    return bank if _TENANT.match(bank) else f"bank-{hashlib.sha256(bank.encode()).hexdigest()[:40]}"
