"""Random models of 30 to 80 thousand parameters, one of each family that people name in `model:`, as folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto import CONFIG_MAPPING

WINDOW = 128
"""Longest sequence of each model, in tokens."""
SLIDING = 12
"""What the layers with a sliding window see: less than a prompt."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
SHARED = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
SLIDES = {"sliding_window": SLIDING, "layer_types": ["sliding_attention", "full_attention"]}


def byte_level() -> tuple[Tokenizer, str, str]:
    """256 bytes, as Qwen, Llama 3, OLMo and GPT-2 have them."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, "<|im_end|>", "<|im_end|>"


def sentence_piece() -> tuple[Tokenizer, str, str]:
    """Spaces as `▁`, bytes for what is unknown, a first token of its own: as Gemma, Llama 2 and Phi 3 have it."""
    letters = ["▁", *map(chr, range(33, 127)), "\n"]
    names = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, "<eos>", "<pad>"


Odd = Callable[[], tuple[Tokenizer, str, str]]

FAMILIES: dict[str, tuple[str, Odd, dict[str, Any]]] = {
    "llama": ("llama", byte_level, {}),
    "llama_sentence_piece": ("llama", sentence_piece, {}),
    "smollm_tied": ("llama", byte_level, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "mistral": ("mistral", sentence_piece, {"sliding_window": 4 * SLIDING}),
    "qwen2": ("qwen2", byte_level, {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", byte_level, {"head_dim": 16}),
    "qwen3_padded_vocabulary": ("qwen3", byte_level, {"head_dim": 16, "vocab_size": 320}),
    "qwen3_moe": (
        "qwen3_moe",
        byte_level,
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "olmo2": ("olmo2", byte_level, {"num_key_value_heads": 4}),
    "olmo3": ("olmo3", byte_level, {"num_key_value_heads": 4, **SLIDES}),
    "gemma2": ("gemma2", sentence_piece, {"head_dim": 8, "tie_word_embeddings": True, **SLIDES}),
    "gemma3": ("gemma3_text", sentence_piece, {"head_dim": 8, "tie_word_embeddings": True, **SLIDES}),
    "phi3": ("phi3", sentence_piece, {"pad_token_id": 0}),
    "gpt2": ("gpt2", byte_level, {"tie_word_embeddings": True, "num_key_value_heads": None}),
    "gpt_neox": ("gpt_neox", byte_level, {"num_key_value_heads": None}),
    "smollm3": ("smollm3", byte_level, {"pad_token_id": 0}),
}
"""By name: the word that a config has for its architecture, a tokenizer, and what the config says besides."""


def make_folder(name: str, folder: Path) -> Path:
    """The model `name` of `FAMILIES` in `folder`, with random weights of seed 0."""
    import torch

    word, odd, own = FAMILIES[name]
    tokenizer, end, pad = odd()
    for token in ("<|im_start|>", "<|im_end|>"):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token=pad, chat_template=CHATML, model_max_length=WINDOW
    )
    ends = {"eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id, "bos_token_id": None}
    said = {**SHARED, "vocab_size": len(fast), **ends, **own}
    config = CONFIG_MAPPING[word](**{key: value for key, value in said.items() if value is not None or "id" in key})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
