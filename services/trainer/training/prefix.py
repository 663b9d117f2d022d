"""Rollouts of a group share their prompt: it runs through the model once, and every completion attends to it.

A forward pass is one row of tokens: first the different prompts, each padded to the longest, then the completions,
each padded to the longest. All of a model but its attention works token by token, so only attention needs to know
who sees whom. It is a drop-in part of transformers (a registered attention function), and gradients flow through it.

Invariant: it changes what a step costs, never what it computes, up to floating-point rounding.

Axes: P prompts, B completions, W positions of a prompt, S positions of a completion, T = P·W + B·S tokens, H heads,
D head dimension.
"""

# ruff: noqa: N815 -- axis names on tensors, in fields too
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "pmd_shared_prompts"
"""Name under which transformers knows `shared_attention`. It has no mask function, so no mask is made for it."""


@dataclass(frozen=True)
class Layout:
    """Where prompts and completions lie in a row of tokens, and which belong together."""

    prompt_of_B: Tensor
    seen_B1SK: Tensor
    """True where a completion's position sees one of K = W + S: its prompt without the padding, and itself."""
    prompts: int
    width: int

    @staticmethod
    def of(prompt_of_B: list[int], lengths_P: list[int], length: int, device: torch.device) -> Layout:
        """Args:
        prompt_of_B: the prompt of each completion.
        lengths_P: tokens of each prompt.
        length: positions of each completion, S.
        """
        width = max(lengths_P)
        of_B = torch.tensor(prompt_of_B)
        prompt_BW = torch.arange(width) < torch.tensor(lengths_P)[of_B, None]
        itself_SS = torch.ones(length, length, dtype=torch.bool).tril()
        B = len(prompt_of_B)
        seen_BSK = torch.cat([prompt_BW[:, None].expand(-1, length, -1), itself_SS.expand(B, -1, -1)], -1)
        return Layout(of_B.to(device), seen_BSK[:, None].to(device), len(lengths_P), width)


def shared_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' `sdpa` attention; with a layout, over one row of tokens that it describes.

    Args:
        query: (1, H, T, D).
        key: (1, key-value heads, T, D).
        value: (1, key-value heads, T, D).

    Returns:
        (1, T, H, D), and None in place of the attention weights.
    """
    if query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # PyTorch's attention on a CPU runs backward in bf16 at a quarter of its speed in fp32.
        in_fp32 = query.float(), key.float(), value.float()
        mixed, _ = shared_attention(module, *in_fp32, attention_mask=attention_mask, layout=layout, **kwargs)
        return mixed.bfloat16(), None
    if layout is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output
    begin = layout.prompts * layout.width
    states = (query, key, value)
    ours = [_in_rows(one[0, :, :begin], layout.prompts) for one in states]
    query_BHSD, key_BHSD, value_BHSD = (_in_rows(one[0, :, begin:], len(layout.prompt_of_B)) for one in states)
    mixed_PWHD, _ = sdpa_attention_forward(module, *ours, None, **kwargs)
    # Gradients of a prompt's keys and values are the sum over its completions: what index_select does.
    key_BHKD, value_BHKD = (
        torch.cat([prompts.index_select(0, layout.prompt_of_B), own], 2)
        for prompts, own in zip(ours[1:], (key_BHSD, value_BHSD), strict=True)
    )
    mixed_BSHD, _ = sdpa_attention_forward(module, query_BHSD, key_BHKD, value_BHKD, layout.seen_B1SK, **kwargs)
    return torch.cat([mixed_PWHD.flatten(0, 1), mixed_BSHD.flatten(0, 1)])[None], None


def _in_rows(states_HTD: Tensor, rows: int) -> Tensor:
    """(rows, H, T / rows, D)."""
    H, _, D = states_HTD.shape
    return states_HTD.reshape(H, rows, -1, D).transpose(0, 1)


AttentionInterface.register(ATTENTION, shared_attention)


def share_prompts(model: PreTrainedModel) -> None:
    """Let `model` share prompts, if each of its layers is full attention by transformers' `sdpa` function."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = set(layers) == {"full_attention"} if layers else getattr(config, "sliding_window", None) is None
    if full and model._supports_attention_backend and not model._is_stateful and config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether `model` takes a `Layout`."""
    return bool(model.config.get_text_config()._attn_implementation == ATTENTION)
