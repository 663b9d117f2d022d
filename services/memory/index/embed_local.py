"""The `local` embedder: a sentence-transformers folder, run by transformers on the CPU.

What such a folder says is followed: `modules.json` (transformer, pooling, normalisation), the pooling's
configuration, the longest input. A folder with other modules is refused rather than read half.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmd.services.memory.index.embed import Rows, unit

BATCH = 32
_KNOWN = {"Transformer", "Pooling", "Normalize"}
_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
_IDENTITY = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


class LocalEmbedder:
    """Vectors by a model on this machine; thread-safe, loaded at the first use."""

    def __init__(self, folder: str) -> None:
        """Check `folder`, without loading it.

        Raises:
            ValueError: when it is no sentence-transformers folder, or has a module that is not known here.
        """
        self._folder = Path(folder)
        try:
            modules = json.loads((self._folder / "modules.json").read_text())
            paths = {m["type"].rsplit(".", 1)[-1]: self._folder / m["path"] for m in modules}
            pooling = json.loads((paths["Pooling"] / "config.json").read_text())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder!r} is no sentence-transformers folder (modules.json with a Pooling module): {error}; "
                "set PMD_MEMORY_EMBEDDER_PATH to one"
            ) from error
        if foreign := sorted(set(paths) - _KNOWN):
            raise ValueError(
                f"{folder!r} has modules that are not supported: {', '.join(foreign)}; serve it as `openai`"
            )
        modes = [name for key, name in _POOLING.items() if pooling.get(key)]
        if len(modes) != 1 or any(
            v is True and k.startswith("pooling_mode_") and k not in _POOLING for k, v in pooling.items()
        ):
            raise ValueError(f"{folder!r} pools in a way that is not supported: {pooling}; serve it as `openai`")
        self._pooling = modes[0]
        limits = self._folder / "sentence_bert_config.json"
        self._max_tokens: int = json.loads(limits.read_text()).get("max_seq_length") or 512 if limits.exists() else 512
        self.id = f"local-{_digest(self._folder)}"
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> Rows:
        import torch  # noqa: PLC0415 -- heavy, and only this embedder needs it

        tokenizer, model = self._load()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of a length together: little padding
        found: list[Rows | None] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = tokenizer(
                [texts[i] for i in part],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden_BTD = model(**inputs).last_hidden_state.float()
            pooled_BD = self._pool(hidden_BTD, inputs["attention_mask"])
            for i, row in zip(part, unit(pooled_BD.numpy()), strict=True):
                found[i] = row
        return np.stack([row for row in found if row is not None]) if texts else np.zeros((0, 0), dtype=np.float32)

    def _pool(self, hidden_BTD: Any, mask_BT: Any) -> Any:
        if self._pooling == "cls":
            return hidden_BTD[:, 0]
        if self._pooling == "last":
            positions = mask_BT.cumsum(1).argmax(1)  # the last attended position, whichever side is padded
            return hidden_BTD[range(len(hidden_BTD)), positions]
        weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1.0)

    def _load(self) -> tuple[Any, Any]:
        with self._lock:
            if self._loaded is None:
                from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

                tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
                model = AutoModel.from_pretrained(self._folder, local_files_only=True).eval()
                self._loaded = (tokenizer, model)
            return self._loaded


def _digest(folder: Path) -> str:
    """Short hash of the files that decide what comes out: a copy elsewhere is the same embedder."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in _IDENTITY for p in folder.rglob(pattern)}):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
