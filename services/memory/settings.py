"""Settings of the memory service."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import SecretStr, model_validator

from pmd.services.common.allowed import Allowed
from pmd.services.common.settings import WorkerSettings
from pmd.services.memory.index.embedders import EmbedderSpec


class MemoryServiceSettings(WorkerSettings):
    """Where the ledger lives, who writes reflections, and how memories are found."""

    memory_database_url: str = ""
    """SQLAlchemy URL of the ledger; empty means SQLite in the state folder."""
    rollout_url: str = "http://127.0.0.1:8701"
    """The rollout service: its chat completions write insights and behaviors unless a recipe names others."""
    allowed_urls: str = ""
    """Endpoints of models that a recipe may name at `generator.base_url`, and all below them, separated by commas."""
    memory_generator_key: SecretStr = SecretStr("")
    """API key for a model at one of `allowed_urls`; no other secret is sent there, and this one nowhere else."""

    memory_index: Literal["exact", "weaviate"] = "exact"
    """exact: in this process, over the ledger. weaviate: the server at `weaviate_url`."""
    weaviate_url: str = ""
    """HTTP address of Weaviate, `http://host:8080`."""
    weaviate_grpc: str = ""
    """gRPC address of Weaviate, `host:50051`; encrypted when `weaviate_url` is https."""
    weaviate_api_key: SecretStr = SecretStr("")
    """API key for Weaviate; may be empty only where it lets anybody in."""
    memory_embedder: Literal["hash", "local", "openai"] = "hash"
    """hash: no weights, knows spelling. local: a model on this machine. openai: any `/v1/embeddings`."""
    memory_embedder_path: str = ""
    """local: a sentence-transformers folder."""
    memory_embedder_url: str = ""
    """openai: base URL with its version, `http://host:8000/v1`."""
    memory_embedder_model: str = ""
    """openai: the model's name there."""
    memory_embedder_key: SecretStr = SecretStr("")
    """openai: API key, where one is wanted."""
    memory_embedder_dim: int | None = None
    """openai: dimensions to ask for, of models that can shorten their vectors; unset takes what comes."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.memory_index == "weaviate" and not (self.weaviate_url and self.weaviate_grpc):
            raise ValueError("PMD_MEMORY_INDEX=weaviate wants PMD_WEAVIATE_URL and PMD_WEAVIATE_GRPC")
        if self.memory_embedder == "local" and not self.memory_embedder_path:
            raise ValueError("PMD_MEMORY_EMBEDDER=local wants PMD_MEMORY_EMBEDDER_PATH, a sentence-transformers folder")
        if self.memory_embedder == "openai" and not (self.memory_embedder_url and self.memory_embedder_model):
            raise ValueError("PMD_MEMORY_EMBEDDER=openai wants PMD_MEMORY_EMBEDDER_URL and PMD_MEMORY_EMBEDDER_MODEL")
        return self

    def embedder(self) -> EmbedderSpec:
        """The embedder that is asked for."""
        return EmbedderSpec(
            kind=self.memory_embedder,
            path=self.memory_embedder_path,
            url=self.memory_embedder_url,
            model=self.memory_embedder_model,
            dim=self.memory_embedder_dim,
        )

    def ledger_url(self) -> str:
        """The ledger's database."""
        return self.memory_database_url or f"sqlite:///{self.service_dir('memory') / 'ledger.db'}"

    def allowed(self) -> Allowed:
        """What a recipe may name."""
        return Allowed.of(self.allowed_urls)

    def profile(self) -> str:
        """`embedded` needs nothing but this process."""
        return "embedded" if self.memory_index == "exact" else "cluster"
