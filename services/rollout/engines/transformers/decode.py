"""The key-value cache and the attention of the decoding loop, where transformers' own leave speed behind.

Both are drop-in parts of transformers (a cache layer, a registered attention function), so they work for any
causal model that runs on its `sdpa` attention. Invariant: they change what a step costs, never what it computes,
up to floating-point rounding.

- `GrowingLayer` writes a token's keys and values in place; `DynamicLayer` copies the whole cache at every token.
- `grouped_attention` lets the query heads of a group share their key head as it lies in the cache; transformers
  repeats keys and values to the number of query heads at every token when there is a padding mask.

Axes: B rows, K key-value heads, H query heads, G = H / K query heads of a group, T cached positions,
D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "pmd_grouped"
"""Name under which transformers knows `grouped_attention`; a model that runs on `sdpa` can be set to it."""

SLACK = 64
"""Free positions of a buffer that had to grow: one copy of the cache every so many tokens."""


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' `sdpa` attention, except for single-token queries, which run one group as one matrix.

    Args:
        query: (B, H, 1, D) when decoding.
        key: (B, K, T, D).
        value: (B, K, T, D).
        attention_mask: (B, 1, 1, T), True where a position is seen, or what is added to its score.

    Returns:
        (B, 1, H, D), and None in place of the attention weights.
    """
    if query.shape[2] > 1 or kwargs.get("position_bias") is not None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    B, H, _, D = query.shape
    query_BKGD = query.reshape(B, key.shape[1], -1, D)
    mixed_BKGD = functional.scaled_dot_product_attention(
        query_BKGD, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return mixed_BKGD.reshape(B, 1, H, -1), None


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A full-attention cache layer whose buffers have room for the next tokens."""

    def __init__(self, keys_BKTD: torch.Tensor, values_BKTD: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys_BKTD, values_BKTD)
        self.keys, self.values = keys_BKTD, values_BKTD
        self._buffers = (keys_BKTD, values_BKTD)

    def _grow(self) -> None:
        """Move to buffers with fresh slack."""
        B, K, length, D = self.keys.shape
        grown = []
        for old in (self.keys, self.values):
            new = old.new_empty((B, K, length + SLACK, D))
            new[:, :, :length] = old
            grown.append(new)
        self._buffers = (grown[0], grown[1])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, K, new, D) states; returns all keys and values, as views of the buffers."""
        begin = self.keys.shape[2]
        end = begin + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._grow()
        keys, values = self._buffers
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the rows `indices`."""
        keys, values = self._buffers
        length = self.keys.shape[2]
        self._buffers = keys.index_select(0, indices), values.index_select(0, indices)
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def decoding_mask(model: PreTrainedModel, cache: DynamicCache, seen_BT: torch.Tensor) -> torch.Tensor:
    """The mask of all decoding steps, last axis T: a step takes as many positions of it as are cached.

    Where all layers see alike it is made once, (B, 1, 1, T), to be added to the scores; transformers takes it as it is.
    Elsewhere it is `seen_BT` itself, from which transformers makes each layer's mask at every token.
    """
    alike = all(type(layer) is GrowingLayer for layer in cache.layers)
    if not alike or model.config.get_text_config()._attn_implementation != ATTENTION:
        return seen_BT
    bias_BT = torch.zeros(seen_BT.shape, dtype=model.dtype, device=seen_BT.device).masked_fill_(~seen_BT, -torch.inf)
    return bias_BT[:, None, None]


def decoding_cache(prefilled: list[DynamicCache], prompt_of_B: torch.Tensor) -> DynamicCache:
    """One cache with a row per completion, from prefilled caches with a row per prompt.

    Args:
        prefilled: caches of equal length whose rows, one after another, are the prompts; they are consumed.
        prompt_of_B: the prompt of each row.
    """
    cache = prefilled[0]
    for i, layer in enumerate(cache.layers):
        parts = [other.layers[i] for other in prefilled]
        keys_BKTD = torch.cat([part.keys for part in parts])[prompt_of_B]
        values_BKTD = torch.cat([part.values for part in parts])[prompt_of_B]
        for part in parts:  # free the prompts' copy before the next layer is expanded
            part.keys = part.values = None
        if type(layer) is DynamicLayer:
            cache.layers[i] = GrowingLayer(keys_BKTD, values_BKTD)
        else:
            layer.keys, layer.values = keys_BKTD, values_BKTD
    return cache
