"""A GGUF file as an ordinary Hugging Face folder: config, weights, tokenizer, chat template.

Invariants:
- The folder is complete or absent: it is made beside where it goes and renamed last.
- Tensors are written one after another as 32-bit floats, so that memory holds one of them at a time.
- What the file quantised stays as coarse as it was; nothing is estimated back.

Written for the layouts of `LAYOUTS`; another one is refused by name.
"""

from __future__ import annotations

import json
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

CONTROL, USER_DEFINED = 3, 4
"""Kinds of token in `tokenizer.ggml.token_type`: never text; text that is never split."""
SPACE = "\u2581"
"""What SentencePiece writes for a space."""

Array = np.ndarray[Any, np.dtype[Any]]


class CannotConvert(ValueError):
    """The file is none of the layouts that are known; the message says what it is."""


@dataclass(frozen=True)
class Layout:
    """How one architecture of GGUF is called in a Hugging Face folder."""

    names: Mapping[str, str]
    """Name of a tensor of a block, without `.weight`, in the file and in `model.layers.N`."""
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    """What `config.json` holds besides `shared_config`."""
    rotary_pairs: bool
    """Whether rows of q and k are stored as the pairs that are rotated together, not as two halves of a head."""
    norm_offset: float
    """What the file added to the weights of norms."""


_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}


def _llama(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": facts["rope.freq_base"]},
    }


GEMMA3_FULL = 6
"""Every so many layers of a Gemma 3 attend to the whole window; the file doesn't say so."""
GEMMA3_LOCAL_BASE = 10_000.0
"""Base of the rotary embedding in the other layers; not in the file either."""


def _gemma3(facts: Mapping[str, Any]) -> dict[str, Any]:
    full = [layer % GEMMA3_FULL == GEMMA3_FULL - 1 for layer in range(facts["block_count"])]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": facts["attention.key_length"],
        "sliding_window": facts["attention.sliding_window"],
        "layer_types": ["full_attention" if each else "sliding_attention" for each in full],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": facts["rope.freq_base"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": GEMMA3_LOCAL_BASE},
        },
    }


_GEMMA3_BLOCK = _BLOCK | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

LAYOUTS = {
    "llama": Layout(_BLOCK | {"ffn_norm": "post_attention_layernorm"}, _llama, rotary_pairs=True, norm_offset=0.0),
    "gemma3": Layout(_GEMMA3_BLOCK, _gemma3, rotary_pairs=False, norm_offset=1.0),
}


class File:
    """A GGUF file that is open for reading.

    Raises:
        CannotConvert: when its architecture or its tokenizer is not known here.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader  # noqa: PLC0415 - only a conversion needs it

        self._reader = GGUFReader(path)
        self.architecture = str(self.metadata("general.architecture"))
        if self.architecture not in LAYOUTS:
            raise CannotConvert(f"{path.name} holds a {self.architecture}; known are {', '.join(LAYOUTS)}")
        self.layout = LAYOUTS[self.architecture]
        self.facts = {
            name.removeprefix(f"{self.architecture}."): self.metadata(name)
            for name in self._reader.fields
            if name.startswith(f"{self.architecture}.")
        }

    def metadata(self, name: str, default: Any = None) -> Any:
        """The value of the field `name`, or `default` where the file has none."""
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by its name in the folder, outermost axis first; in the file's order."""
        return {self._name(t.name): tuple(int(n) for n in reversed(t.shape)) for t in self._reader.tensors}

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """Each tensor as 32-bit floats by its name in the folder; in the file's order."""
        from gguf import dequantize  # noqa: PLC0415

        for tensor in self._reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            name = self._name(tensor.name)
            if name.endswith("norm.weight"):
                values = values - np.float32(self.layout.norm_offset)
            if self.layout.rotary_pairs and ".q_proj." in name:
                values = _halves(values, self.facts["attention.head_count"])
            if self.layout.rotary_pairs and ".k_proj." in name:
                values = _halves(values, self.facts["attention.head_count_kv"])
            yield name, np.ascontiguousarray(values)

    def _name(self, name: str) -> str:
        whole = {"token_embd": "embed_tokens", "output_norm": "norm"}
        stem = name.removesuffix(".weight")
        if stem in whole:
            return f"model.{whole[stem]}.weight"
        if stem == "output":
            return "lm_head.weight"
        block, _, part = stem.removeprefix("blk.").partition(".")
        if part not in self.layout.names or not name.endswith(".weight"):
            raise CannotConvert(f"a {self.architecture} with a tensor {name!r} is not known here")
        return f"model.layers.{block}.{self.layout.names[part]}.weight"


def _halves(rows: Array, heads: int) -> Array:
    """Rows of q or k, (heads x dim, in), with the two halves of each head one after the other again.

    The file stores row i of the first half beside row i of the second, as its engine rotates them.
    """
    dim = rows.shape[0] // heads
    return rows.reshape(heads, dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def convert(source: Path, to: Path, card: str, extra: Mapping[str, bytes], chat_template: str | None = None) -> None:
    """Write the folder `to`, which must not exist.

    Args:
        source: the GGUF file.
        card: contents of `README.md`.
        extra: further files by name, the licence among them.
        chat_template: for a model whose file has none.

    Raises:
        CannotConvert: when the file's layout or tokenizer is not known here.
        OSError: when `to` can't be written.
    """
    file = File(source)
    template = file.metadata("tokenizer.chat_template", chat_template)
    if template is None:
        raise CannotConvert(f"{source.name} has no chat template")
    part = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}.tmp")
    part.mkdir(parents=True)
    try:
        with (part / "model.safetensors").open("wb") as out:
            _write_tensors(file, out)
        for name, content in _json_files(file).items():
            (part / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _tokenizer(file).save(str(part / "tokenizer.json"))
        (part / "chat_template.jinja").write_text(template, encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
        for name, data in extra.items():
            (part / name).write_bytes(data)
        part.rename(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_tensors(file: File, out: BinaryIO) -> None:
    """The safetensors format: length of the header, header, then the tensors' bytes, little-endian."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in file.shapes().items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for name, values in file.tensors():
        if values.shape != header[name]["shape"]:
            raise CannotConvert(f"{name} has the shape {values.shape}, not {header[name]['shape']}")
        out.write(values.astype("<f4", copy=False).data)


def _json_files(file: File) -> dict[str, dict[str, Any]]:
    """The config files by name."""
    facts = file.facts
    tokens = file.metadata("tokenizer.ggml.tokens")
    ids = {role: file.metadata(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos", "padding", "unknown")}
    heads, width = facts["attention.head_count"], facts["embedding_length"]
    config = {
        **file.layout.config(facts),
        "vocab_size": len(tokens),
        "hidden_size": width,
        "intermediate_size": facts["feed_forward_length"],
        "num_hidden_layers": facts["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("attention.head_count_kv", heads),
        "head_dim": facts.get("attention.key_length", width // heads),
        "max_position_embeddings": facts["context_length"],
        "rms_norm_eps": _short(facts["attention.layer_norm_rms_epsilon"]),
        "tie_word_embeddings": "lm_head.weight" not in file.shapes(),
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["padding"],
        "initializer_range": 0.02,
        "dtype": "float32",
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[ids["bos"]],
        "eos_token": tokens[ids["eos"]],
        "pad_token": tokens[ids["padding"]],
        "unk_token": tokens[ids["unknown"]],
        "model_max_length": facts["context_length"],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    generation = {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["padding"]}
    return {"config.json": config, "tokenizer_config.json": tokenizer, "generation_config.json": generation}


def _short(value: float) -> float:
    """The shortest decimal that is the same 32-bit float: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _tokenizer(file: File) -> Any:
    """The tokenizer of the file as one of `tokenizers`.

    Raises:
        CannotConvert: when it is none that is known here.
    """
    from tokenizers import AddedToken  # noqa: PLC0415 - takes a moment

    kind = (file.metadata("tokenizer.ggml.model"), file.metadata("tokenizer.ggml.pre"))
    tokens = file.metadata("tokenizer.ggml.tokens")
    if kind == ("gpt2", "smollm"):
        tokenizer = _byte_level(tokens, file.metadata("tokenizer.ggml.merges"))
    elif kind == ("llama", "default") and not file.metadata("tokenizer.ggml.add_space_prefix", True):
        tokenizer = _sentence_pieces(tokens, file.metadata("tokenizer.ggml.scores"))
    else:
        raise CannotConvert(f"the tokenizer {kind[0]}, pre-tokenizer {kind[1]}, is not known here")
    kinds = file.metadata("tokenizer.ggml.token_type")
    for wanted, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
        add(
            [
                AddedToken(token, special=wanted == CONTROL, normalized=False)
                for token, kind_of in zip(tokens, kinds, strict=True)
                if kind_of == wanted
            ]
        )
    return tokenizer


def _byte_level(tokens: Sequence[str], merges: Sequence[str]) -> Any:
    """Byte-level BPE that splits digits singly."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_pieces(tokens: Sequence[str], scores: Sequence[float]) -> Any:
    """BPE of SentencePiece: the file has no merges, but scores that say which of them comes first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415

    ids = {token: i for i, token in enumerate(tokens)}
    merges = [
        (-scores[ids[token]], ids[token[:cut]], ids[token[cut:]], token[:cut], token[cut:])
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    model = models.BPE(vocab=ids, merges=pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True)  # noqa: S106
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
