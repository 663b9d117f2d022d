"""A model and a recipe, looked at together before anything starts: what can't work is refused, what may not is said.

Invariant: a refusal is sure, by the files alone. Whatever depends on machines, or on how a model was trained, is a
warning.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pmd.gateway.recipes.lengths import too_long
from pmd.gateway.recipes.models.shape import Facts, ModelError
from pmd.gateway.recipes.recipe import Recipe
from pmd.services.common.wire import Problem

ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose cache can be cut and shared by rows; states of recurrent layers can't."""

RECURRENT = frozenset(
    [
        *("bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "minimax"),
        *("nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2"),
    ]
)
"""Architectures with recurrent layers, some of whose configs don't list their layers."""

TRIED = frozenset(
    [
        *("gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "olmo3", "phi3", "qwen2", "qwen3"),
        *("qwen3_moe", "smollm3"),
    ]
)
"""Architectures that tests/models/test_families.py takes from a rollout to an export."""


def refuse(recipe: Recipe, facts: Facts) -> None:
    """Look for what can't work.

    Raises:
        ModelError: naming the recipe's key, the cause and what to do.
    """
    shape = facts.shape
    known = _architectures()
    if known is not None and shape.kind not in known:
        raise ModelError(
            f"architecture {shape.kind!r} is no causal language model of the installed transformers"
            f" {_transformers()}; code that comes with a model is not run. Upgrade transformers, or give another model"
        )
    strange = facts.attention - ATTENTION
    if strange or shape.kind in RECURRENT:
        what = f"layers of kind {', '.join(sorted(strange))}" if strange else "recurrent layers"
        raise ModelError(
            f"{shape.kind!r} has {what}, whose state rollouts of one prompt can't share; give another model"
        )
    if not facts.template:
        raise ModelError("the model holds no chat template; add the chat_template.jinja that its answers follow")
    if not facts.ends:
        raise ModelError(
            "the model has no end token, so no completion would ever end by itself; name eos_token_id in its"
            " generation_config.json"
        )
    beyond = max((facts.largest_token or 0, *facts.ends))
    if beyond >= shape.vocab:
        raise ModelError(
            f"its tokenizer has token {beyond}, and config.json a vocabulary of {shape.vocab}: they are of different"
            " models. Take both from one place, or resize the embeddings"
        )
    own = recipe.generator.base_url is None and bool(recipe.levels)
    for key, most in (
        ("sampling.max_tokens", recipe.sampling.max_tokens),
        ("evaluation.sampling.max_tokens", recipe.evaluation.sampling.max_tokens),
        *((("generator.sampling.max_tokens", recipe.generator.sampling.max_tokens),) if own else ()),
    ):
        if most >= shape.window:
            raise ModelError(f"{most} leaves no room for a prompt: the model's window is {shape.window} tokens", key)


def warnings(recipe: Recipe, facts: Facts, problems: Sequence[Problem]) -> list[str]:
    """What may go wrong, a sentence each.

    Raises:
        ModelError: no problem at all leaves room for its answer.
    """
    shape, found = facts.shape, []
    if shape.kind not in TRIED:
        found.append(f"model: architecture {shape.kind!r} was not tried here; look at mismatch_kl after the first step")
    if not ("eos_token" in facts.template or any(text in facts.template for text in facts.end_texts)):
        ends = ", ".join(facts.end_texts) or ", ".join(map(str, facts.ends))
        found.append(
            f"model: its chat template ends turns with none of its end tokens ({ends}); answers may run on to"
            " max_tokens. Name the right eos_token_id in generation_config.json"
        )
    if recipe.thinking == "on" and "enable_thinking" not in facts.template:
        found.append("thinking: on, but the chat template has no such switch; it does what it always does")
    if facts.folder is not None:
        found += _room(recipe, facts, facts.folder, problems)
    longest = recipe.sampling.max_tokens
    if facts.attention == {"sliding_attention"} and facts.sliding and facts.sliding <= longest:
        found.append(
            f"model: each layer sees {facts.sliding} tokens back, fewer than sampling.max_tokens ({longest}): the end"
            " of a long completion does not see what its teacher was told"
        )
    return found


def _room(recipe: Recipe, facts: Facts, folder: Path, problems: Sequence[Problem]) -> list[str]:
    """Problems whose prompt, context and completion do not fit the window together."""
    window, found = facts.shape.window, []
    for key, most, splits in (
        ("sampling.max_tokens", recipe.sampling.max_tokens, ("train",)),
        ("evaluation.sampling.max_tokens", recipe.evaluation.sampling.max_tokens, recipe.evaluation.splits),
    ):
        asked = [problem for problem in problems if problem.split in splits]
        long = too_long(asked, folder, window - most)
        if long and len(long) == len(asked):
            message = f"{most} and the shortest prompt ({min(n for _, n in long)} tokens) exceed the window of {window}"
            raise ModelError(message, key)
        if long:
            worst, tokens = max(long, key=lambda each: each[1])
            found.append(
                f"{key}: with {most}, {len(long)} of {len(asked)} problems don't fit the window of {window} and are"
                f" answered with nothing; the longest is {worst.id} with {tokens} tokens"
            )
    shows_solutions = recipe.has_teacher and recipe.context.demonstrations != "none"
    if shows_solutions:
        most = recipe.sampling.max_tokens
        trained = [problem for problem in problems if problem.split == "train"]
        tight = trained if window <= 2 * most else [p for p, _ in too_long(trained, folder, window - 2 * most)]
        if tight:
            found.append(
                f"sampling.max_tokens: behind a shown solution and a completion of {most} tokens each, the window of"
                f" {window} has no room for {len(tight)} of {len(trained)} problems; such teacher contexts are cut"
            )
    return found


@cache
def _architectures() -> frozenset[str] | None:
    """Architectures of causal language models that the installed transformers knows; None where it is not installed.

    Its source is read, not run: importing it takes seconds and torch.
    """
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    for place in places or ():
        try:
            tree = ast.parse((Path(place) / "models/auto/modeling_auto.py").read_text(encoding="utf-8"))
        except (OSError, SyntaxError):
            continue
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES":
                return frozenset(
                    str(pair.elts[0].value)
                    for pair in ast.walk(node.value)
                    if isinstance(pair, ast.Tuple) and pair.elts and isinstance(pair.elts[0], ast.Constant)
                )
    return None


def _transformers() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""
