"""The `openai` embedder: any server with OpenAI's `POST /v1/embeddings` (vLLM, TEI, OpenAI, ours to come)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx
import numpy as np

from pmd.services.common import outgoing
from pmd.services.common.alive import Watch
from pmd.services.common.jobs import Retryable
from pmd.services.common.waiting import AWAY_STATUS
from pmd.services.memory.index.embed import EmbedderDown, Rows, unit

BATCH = 64
ATTEMPTS = 3
BACKOFF_S = 0.3
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class OpenAIEmbedder:
    """Vectors from an endpoint; thread-safe."""

    def __init__(
        self, url: str, model: str, key: str, dim: int | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Nothing is asked yet.

        Args:
            url: base URL with its version, `http://host:8000/v1`.
            dim: dimensions to ask for, for models that can shorten their vectors; None takes what comes.

        Raises:
            ValueError: when url or model is missing.
        """
        if not url.startswith(("http://", "https://")) or not model:
            raise ValueError("the openai embedder wants PMD_MEMORY_EMBEDDER_URL (http..) and PMD_MEMORY_EMBEDDER_MODEL")
        self.id = f"openai-{model}" + (f"-{dim}" if dim else "")
        self._model, self._dim = model, dim
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = outgoing.outside(url.rstrip("/"), headers=headers, timeout=TIMEOUT, transport=transport)

    def embed(self, texts: Sequence[str]) -> Rows:
        parts = [self._batch(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        if len({part.shape[1] for part in parts}) > 1:
            raise ValueError(f"{self._where()}: model {self._model!r} answered vectors of different dimensions")
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def _batch(self, texts: Sequence[str]) -> Rows:
        # Servers refuse the empty string; a space means as little.
        body = {"model": self._model, "input": [t or " " for t in texts], "encoding_format": "float"}
        answer = self._post(body | ({"dimensions": self._dim} if self._dim else {}))
        try:
            data = sorted(answer.json()["data"], key=lambda d: d["index"])
            rows = np.array([d["embedding"] for d in data], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._where()} did not answer embeddings") from error
        if rows.ndim != 2 or len(rows) != len(texts):
            raise ValueError(f"{self._where()} answered shape {rows.shape} for {len(texts)} texts")
        if self._dim and rows.shape[1] != self._dim:
            raise ValueError(
                f"{self._where()} answered {rows.shape[1]} dimensions, {self._dim} were asked for; "
                "unset PMD_MEMORY_EMBEDDER_DIM if the model can't shorten its vectors"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{self._where()} answered numbers that are not finite")
        return unit(rows)

    def _post(self, body: dict[str, object]) -> httpx.Response:
        cause, down = "", True
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF_S * 2**attempt)
            try:
                with Watch(self._http, "/models", f"the embedder at {self._where()}"):
                    answer = self._http.post("/embeddings", json=body)
            except httpx.TransportError as error:
                cause, down = type(error).__name__, True
                continue
            if answer.status_code < 400:
                return answer
            down = answer.status_code in AWAY_STATUS
            cause = f"HTTP {answer.status_code}"  # its body is another server's, and may hold anything
            if answer.status_code < 500 and not down:
                raise ValueError(f"{self._where()}: {cause}")
        said = f"{self._where()} failed {ATTEMPTS} times: {cause}"
        raise EmbedderDown(said) if down else Retryable(said)

    def _where(self) -> str:
        return f"{outgoing.shown(self._http.base_url)}embeddings"
