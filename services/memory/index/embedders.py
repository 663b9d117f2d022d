"""Which embedder is in force: the one place that knows all three."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr

from pmd.services.common.strict import Strict
from pmd.services.memory.index.embed import Embedder, HashEmbedder


class EmbedderSpec(Strict):
    """Which embedder, as it is remembered over a restart; keys are not part of it."""

    kind: Literal["hash", "local", "openai"] = "hash"
    path: str = ""
    """local: a sentence-transformers folder."""
    url: str = ""
    """openai: base URL, with `/v1`."""
    model: str = ""
    """openai: model name."""
    dim: int | None = None
    """openai: dimensions to ask for; None takes what comes."""

    def build(self, key: SecretStr) -> Embedder:
        """The embedder; `key` is for `openai`.

        Raises:
            ValueError: when the folder or the endpoint is not usable as given.
        """
        if self.kind == "local":
            from pmd.services.memory.index.embed_local import LocalEmbedder  # noqa: PLC0415 -- keeps the default light

            return LocalEmbedder(self.path)
        if self.kind == "openai":
            from pmd.services.memory.index.embed_openai import OpenAIEmbedder  # noqa: PLC0415

            return OpenAIEmbedder(self.url, self.model, key.get_secret_value(), self.dim)
        return HashEmbedder()
