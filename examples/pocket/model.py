"""The base model before any training: a small Qwen3 that starts out able to look things up."""

from __future__ import annotations

import math

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROPE_THETA = 1e6
MATCHES = (((0,), (1,)), ((1, 2), (2, 3)), ((2,), (3,)), ((4,), (4,)))
"""What each head of the second layer compares at the start: tokens at these distances behind the one that asks, with
tokens at those behind the one that answers. The second is "zor-mil: ?" with "zor-mil: rotate"."""


def build_model(tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, seed: int) -> Qwen3ForCausalLM:
    """A fresh Qwen3 with heads of 32, tied embeddings, in float32."""
    torch.manual_seed(seed)
    heads = width // 32
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=1024,
        rope_theta=ROPE_THETA,
        tie_word_embeddings=True,
        # Width 128 wants a wider start than the 0.02 of large models.
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    start_lookup(model)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


@torch.no_grad()
def start_lookup(model: Qwen3ForCausalLM) -> None:
    """Start the first two layers as induction heads (Olsson et al., arXiv 2209.11895).

    Every skill here is a look-up: find the note on this family, the option with this outcome. From a random start
    the circuit for it, heads that copy what stood k tokens ago and heads that match those copies, did not form
    within 250,000 texts; given as a start, it is in use after some 10,000. All of it stays trainable.
    """
    config = model.config
    width, size = config.hidden_size, config.head_dim
    half = size // 2
    # One embedding dimension is the same for all tokens, so that a head can look at a place whatever stands there.
    model.model.embed_tokens.weight[:, 0] = 0.25
    copying, matching = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    for attention in (copying, matching):
        # Queries and keys are normalised, so their gains bound how sharply a head can look.
        torch.nn.init.constant_(attention.q_norm.weight, 2.0)
        torch.nn.init.constant_(attention.k_norm.weight, 2.0)
    code_HD = torch.randn(size, width) / width**0.5
    code_HD[:, 0] = 0.0
    places = [torch.linalg.qr(torch.randn(width, size))[0] for _ in range(config.num_attention_heads)]
    for head, place_DH in enumerate(places):
        rows = slice(head * size, (head + 1) * size)
        copying.q_proj.weight[rows] = 0.0
        copying.k_proj.weight[rows] = 0.0
        for pair in range(3):
            # The fastest rotary pairs, turned by head + 1 places: they agree at that distance and nowhere else.
            angle = (head + 1) * ROPE_THETA ** (-2 * pair / size)
            copying.q_proj.weight[rows][pair, 0] = 0.5
            copying.k_proj.weight[rows][pair, 0] = 0.5 * math.cos(angle)
            copying.k_proj.weight[rows][pair + half, 0] = 0.5 * math.sin(angle)
        copying.v_proj.weight[rows] = code_HD
        copying.o_proj.weight[:, rows] = 0.5 * place_DH
    # What a token looks like, then what stood 1, 2, .. tokens before it.
    seen = [code_HD, *(place_DH.T for place_DH in places)]
    slow = [row for row in range(size) if row % half >= 5]  # slow rotary pairs match at any distance
    for head, (ask, answer) in enumerate(MATCHES):
        rows = slice(head * size, (head + 1) * size)
        matching.q_proj.weight[rows] = 0.0
        matching.k_proj.weight[rows] = 0.0
        for number, row in enumerate(slow):
            turn, line = number % len(ask), number // len(ask)
            matching.q_proj.weight[rows][row] = seen[ask[turn]][line]
            matching.k_proj.weight[rows][row] = seen[answer[turn]][line]
