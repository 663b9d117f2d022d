"""What a model folder says of itself, read from its JSON files: nothing is imported that computes.

Invariant: a number is what `transformers` will read in the same files, or it is left out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "*.safetensors")
"""Files of a model folder that a run needs: weights as safetensors, config, tokenizer, chat template, and its terms."""
SAME_WEIGHTS_AGAIN = ("consolidated*", "*adapter*.safetensors")
"""Files of those that hold the weights in another layout, or other weights."""
ELSEWHERE = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.ot", "*.tflite")
"""Weights of other frameworks, the same ones or others."""

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
MAX_HEADER = 100 << 20
MAX_TEXT = 128 << 20
"""Bytes of a file of JSON; the largest tokenizers have a quarter of it."""


class ModelError(ValueError):
    """The model can't be used; `field` is the recipe's key that says so."""

    def __init__(self, message: str, field: str = "model") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, in the words of transformers' configs."""

    kind: str
    """`model_type`."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the gated product of a layer, of one expert where there are several."""
    vocab: int
    window: int
    """Longest sequence, in tokens."""
    tied: bool
    """Input and output embedding are one."""
    experts: int = 1
    experts_per_token: int = 1
    bytes_per_weight: int = 2
    """As the files hold them."""
    known_parameters: int | None = None
    """Counted, where the weights or their index are there."""

    @property
    def parameters(self) -> int:
        """Weights of the model: counted, else worked out (gated products, no biases)."""
        return self.known_parameters or self._worked_out(self.experts)

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets."""
        idle = self.experts - self.experts_per_token
        return self.parameters - idle * self.layers * 3 * self.hidden * self.intermediate

    def _worked_out(self, experts: int) -> int:
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        router = self.hidden * experts if experts > 1 else 0
        return embeddings + self.layers * (attention + experts * 3 * self.hidden * self.intermediate + router)


@dataclass(frozen=True)
class Facts:
    """What can be told of a model before it is loaded."""

    shape: Shape
    folder: Path | None
    """Where its files are; None for a model that is known and not here."""
    attention: frozenset[str]
    """Kinds of its layers, as `layer_types` says them."""
    sliding: int | None
    """What a layer with a sliding window sees, in tokens."""
    template: str
    """The chat template; empty without one."""
    ends: tuple[int, ...]
    """Token ids that end a completion."""
    end_texts: tuple[str, ...]
    largest_token: int | None
    """Largest token id of the tokenizer; None when its files don't say."""


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors that hold the model: those of the index, else all but copies in another layout."""
    index = _json(folder / INDEX)
    if index:
        return sorted({str(name) for name in _mapping(index.get("weight_map")).values()})
    names = (path.name for path in folder.glob("*.safetensors"))
    return sorted(name for name in names if not any(fnmatch(name, other) for other in SAME_WEIGHTS_AGAIN))


def belongs(name: str, weights: Iterable[str]) -> bool:
    """Whether a file of a model folder goes with a run, `weights` being the `weight_files`."""
    if name.endswith(".safetensors"):
        return name in weights
    return not any(fnmatch(name, other) for other in ELSEWHERE)


def read_facts(folder: Path) -> Facts:
    """What the files of `folder` say; its weights need not be there yet.

    Raises:
        ModelError: a file that every model has is missing, no JSON, or lacks a size.
    """
    config = _json(folder / "config.json")
    if config is None and (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds an adapter, which is no model alone; give what `pmd export --merge` writes")
    if config is None:
        raise ModelError(f"{folder} holds no config.json; give the Hugging Face folder of the base model")
    shape = read_shape(config)
    text = config | _mapping(config.get("text_config"))
    tokens, largest = _tokens(folder)
    tokenizer = _json(folder / "tokenizer_config.json") or {}
    ends = _ids((_json(folder / "generation_config.json") or config).get("eos_token_id", text.get("eos_token_id")))
    named = tokenizer.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    if isinstance(named, str) and named in tokens:
        ends = tuple(dict.fromkeys((*ends, tokens[named])))
    by_id = {number: name for name, number in tokens.items()}
    kinds = text.get("layer_types")
    sliding = text.get("sliding_window") if text.get("use_sliding_window", True) else None
    everywhere = "sliding_attention" if sliding and text.get("model_type") in {"mistral", "phi3"} else "full_attention"
    return Facts(
        shape=_counted(shape, folder),
        folder=folder,
        attention=frozenset(map(str, kinds)) if isinstance(kinds, list) else frozenset({everywhere}),
        sliding=sliding if isinstance(sliding, int) else None,
        template=_template(folder, tokenizer),
        ends=ends,
        end_texts=tuple(by_id[end] for end in ends if end in by_id),
        largest_token=largest,
    )


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The sizes that a `config.json` gives.

    Raises:
        ModelError: it lacks one, or is of no decoder with attention.
    """
    text = {**config, **_mapping(config.get("text_config"))}
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(
            "config.json names no model_type, so nothing can load it; give a folder that transformers reads"
        )

    def size(what: str, *names: str, default: int | None = None) -> int:
        value = next((text[name] for name in names if isinstance(text.get(name), int)), default)
        if value is None or value < 1:
            raise ModelError(
                f"config.json of {kind!r} gives no {names[0]} ({what}); models without attention over a fixed window"
                " are not supported"
            )
        return value

    hidden = size("width of a layer", "hidden_size", "n_embd", "d_model")
    heads = size("heads of a layer", "num_attention_heads", "n_head", "num_heads")
    experts = size("experts", "num_experts", "num_local_experts", "n_routed_experts", default=1)
    wide = size("width of its products", "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    return Shape(
        kind=kind,
        layers=size("layers", "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=size("heads of keys", "num_key_value_heads", default=heads),
        head_dim=size("width of a head", "head_dim", default=max(1, hidden // heads)),
        intermediate=size("width of an expert", "moe_intermediate_size", default=wide) if experts > 1 else wide,
        vocab=size("tokens", "vocab_size"),
        # The two words that transformers reads as the longest sequence; engine and trainer ask for it.
        window=size("longest sequence", "max_position_embeddings", "n_positions"),
        tied=bool(text.get("tie_word_embeddings", kind.startswith(("gemma", "gpt2")))),
        experts=experts,
        experts_per_token=size("experts of a token", "num_experts_per_tok", default=1) if experts > 1 else 1,
        bytes_per_weight=BYTES.get(dtype, 2),
    )


def _counted(shape: Shape, folder: Path) -> Shape:
    """`shape` with the weights that the files hold, where they or their index are there."""
    paths = [folder / name for name in weight_files(folder)]
    if paths and all(path.is_file() for path in paths):
        counts = [_tensors(path) for path in paths]
        if None not in counts:
            return replace(shape, known_parameters=sum(count for count in counts if count is not None))
    total = _mapping((_json(folder / INDEX) or {}).get("metadata")).get("total_size")
    if isinstance(total, int) and total > 0:
        return replace(shape, known_parameters=total // shape.bytes_per_weight)
    return shape


def _tensors(path: Path) -> int | None:
    """Weights in a safetensors file, by its header; None when it has none that can be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                return None
            header = json.loads(file.read(length))
        shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return None
    return sum(_product(shape) for shape in shapes)


def _product(numbers: Iterable[int]) -> int:
    product = 1
    for number in numbers:
        product *= int(number)
    return product


def _tokens(folder: Path) -> tuple[dict[str, int], int | None]:
    """Token ids by text, and the largest; nothing where the tokenizer's files are of a kind that isn't JSON.

    Raises:
        ModelError: `tokenizer.json` is no tokenizer.
    """
    tree = _json(folder / "tokenizer.json")
    if tree is None:
        tokens = {str(k): v for k, v in (_json(folder / "vocab.json") or {}).items() if isinstance(v, int)}
        return tokens, max(tokens.values(), default=None)
    vocab = _mapping(tree.get("model")).get("vocab")
    if isinstance(vocab, dict):
        tokens = {str(text): number for text, number in vocab.items() if isinstance(number, int)}
    elif isinstance(vocab, list):  # unigram: pairs of text and score
        tokens = {str(pair[0]): n for n, pair in enumerate(vocab) if isinstance(pair, list) and pair}
    else:
        raise ModelError("tokenizer.json holds no vocabulary; save the tokenizer again with save_pretrained")
    added = tree.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            tokens[str(token.get("content"))] = token["id"]
    return tokens, max(tokens.values(), default=None)


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str:
    for name in ("chat_template.jinja", "chat_template.json"):
        try:
            return _bytes(folder / name).decode()
        except (OSError, UnicodeError):
            continue
    said = tokenizer.get("chat_template")
    if isinstance(said, list):  # several, by name
        said = next((each.get("template") for each in said if isinstance(each, dict)), "")
    return said if isinstance(said, str) else ""


def _ids(said: Any) -> tuple[int, ...]:
    ids = said if isinstance(said, list) else [said]
    return tuple(number for number in ids if isinstance(number, int) and not isinstance(number, bool))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> dict[str, Any] | None:
    """The mapping in a file; None when there is no such file.

    Raises:
        ModelError: it is there and holds no mapping, or too much.
    """
    try:
        tree = json.loads(_bytes(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ModelError(f"{path} holds no mapping; is it the file of another program?")
    return tree


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise ModelError(f"{path} has over {MAX_TEXT >> 20} MB; is it the file of another program?")
    return content
