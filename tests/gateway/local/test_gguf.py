"""A GGUF file becomes a folder whose model and tokenizer answer as the ones that it was written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize
from gguf.quants import quantize
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pmd.gateway.local.gguf import CannotConvert, convert

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "hel"]
MERGES = ["h e", "he l"]
TEMPLATE = "{{ messages[0]['content'] }}"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


def pairs(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp stores q and k: row i of a head's first half, then row i of its second."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write(
    path: Path, model: LlamaForCausalLM, architecture: str = "llama", pre: str = "smollm", quantised: bool = False
) -> None:
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    for add, token in (
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_pad_token_id, 2),
        (writer.add_unk_token_id, 0),
    ):
        add(token)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name == "lm_head.weight":
            if model.config.tie_word_embeddings:
                continue
            writer.add_tensor("output.weight", values)
        elif name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", values)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", values)
        else:
            _, _, block, *part, _ = name.split(".")
            short = NAMES[".".join(part)]
            if short in {"attn_q", "attn_k"}:
                values = pairs(values, 4 if short == "attn_q" else 2)
            there = f"blk.{block}.{short}.weight"
            if quantised and short == "ffn_down":
                kind = GGMLQuantizationType.Q8_0
                writer.add_tensor(there, quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(there, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_answers_as_the_model_did(tmp_path: Path, tied: bool) -> None:
    model = llama(tied)
    write(tmp_path / "m.gguf", model)
    convert(tmp_path / "m.gguf", tmp_path / "m", "card", {"LICENSE": b"free"})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    ids = torch.tensor([[5, 9, 40, 41, 7, 100]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert (tmp_path / "m" / "LICENSE").read_bytes() == b"free"


def test_the_tokenizer_merges_splits_digits_and_knows_its_turns(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", llama(True))
    convert(tmp_path / "m.gguf", tmp_path / "m", "card", {})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.tokenize("hello 12<|im_end|>") == ["hel", "l", "o", "Ġ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer("naïve\t日").input_ids) == "naïve\t日"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_quantised_tensors_are_what_the_file_says(tmp_path: Path) -> None:
    """Blocks of 8 bits with a scale each: not what was quantised, exactly what was stored."""
    model = llama(True)
    write(tmp_path / "m.gguf", model, quantised=True)
    convert(tmp_path / "m.gguf", tmp_path / "m", "card", {})
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m").state_dict()
    name = "model.layers.0.mlp.down_proj.weight"
    values = model.state_dict()[name].numpy()
    stored = dequantize(quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    assert np.array_equal(again[name].numpy(), stored)
    assert 0 < np.abs(stored - values).max() < 0.01


@pytest.mark.parametrize(("architecture", "pre", "said"), [("mamba", "smollm", "mamba"), ("llama", "olmo", "olmo")])
def test_what_is_not_known_is_refused_and_leaves_nothing(
    tmp_path: Path, architecture: str, pre: str, said: str
) -> None:
    write(tmp_path / "m.gguf", llama(True), architecture, pre)
    with pytest.raises(CannotConvert, match=said):
        convert(tmp_path / "m.gguf", tmp_path / "m", "card", {})
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
