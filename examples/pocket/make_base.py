"""Make the base model: tokenizer, pre-training, Hugging Face folder, skill table.

    python -m examples.pocket.make_base --out FOLDER

The same arguments on the same machine and package versions give the same folder. How the committed one was made is
in README.md. On noisy or few cores set OMP_WAIT_POLICY=PASSIVE: spinning worker threads can slow a step twentyfold.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from examples.pocket.corpus import EVERYTHING, SMALL, Scope, Text, draw_text
from examples.pocket.skills import SKILLS, effective_procedures, encode_prompts, measure, table
from examples.pocket.tokenizer import train_tokenizer

VOCAB_SIZE = 768
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """How a base is trained."""

    steps: int = 2000
    texts: int = 128
    """Texts a step."""
    micro_batches: int = 8
    """Texts of a step are sorted by length and cut into this many batches, so that little is padding."""
    lr: float = 0.012
    """Muon, for the matrices inside the layers."""
    embedding_lr: float = 3e-3
    """AdamW, for embeddings and norms."""
    warmup: int = 30
    width: int = 128
    layers: int = 3
    scope: Scope = EVERYTHING
    seed: int = 0
    start: Path | None = None
    """Folder of a model to go on from; None starts fresh."""


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A fresh Qwen3 with heads of 32, tied embeddings, in float32."""
    torch.manual_seed(recipe.seed)
    heads = recipe.width // 32
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 2,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        # Width 128 wants a wider start than the 0.02 of large models.
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    for layer in model.model.layers:
        # Queries and keys are normalised, so their gains bound how sharply a head can look at one token. At 1
        # the bound is 5.7 for heads of 32: too soft to pick one note of many, and learnt only slowly.
        torch.nn.init.constant_(layer.self_attn.q_norm.weight, 1.6)
        torch.nn.init.constant_(layer.self_attn.k_norm.weight, 1.6)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def build_tokenizer(seed: int, texts: int = 6000) -> PreTrainedTokenizerFast:
    """A tokenizer trained on both turns of `texts` texts of the corpus."""
    rng = random.Random(f"tokenizer/{seed}")
    drawn = [draw_text(rng) for _ in range(texts)]
    return train_tokenizer((turn for text in drawn for turn in ("user\n" + text.prompt, text.completion)), VOCAB_SIZE)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[Text]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of each text; only the assistant turn after its `skip` has labels."""
    prompts = encode_prompts(tokenizer, [text.prompt for text in texts])
    answers = tokenizer([text.completion for text in texts], add_special_tokens=False, return_offsets_mapping=True)
    rows = []
    for text, prompt, answer, offsets in zip(
        texts, prompts, answers["input_ids"], answers["offset_mapping"], strict=True
    ):
        skipped = sum(start < text.skip for start, _ in offsets)
        labels = [IGNORED] * (len(prompt) + skipped) + answer[skipped:] + [tokenizer.eos_token_id]
        rows.append(([*prompt, *answer, tokenizer.eos_token_id], labels))
    return rows


def micro_batches(
    tokenizer: PreTrainedTokenizerFast, texts: list[Text], count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids_BT, labels_BT) of `count` batches of like length, right-padded: causal attention needs no mask then."""
    rows = sorted(encode(tokenizer, texts), key=lambda row: len(row[0]))
    size = math.ceil(len(rows) / count)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        longest = len(batch[-1][0])
        ids = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in batch]
        labels = [labels + [IGNORED] * (longest - len(labels)) for _, labels in batch]
        yield torch.tensor(ids), torch.tensor(labels)


def step_loss(model: Qwen3ForCausalLM, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of the labelled tokens.

    Only labelled positions go through the output layer: they are a quarter of all.
    """
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    targets_BT = labels_BT[:, 1:]
    labelled_BT = targets_BT != IGNORED
    logits_NV = model.lm_head(hidden_BTD[:, :-1][labelled_BT])
    return torch.nn.functional.cross_entropy(logits_NV, targets_BT[labelled_BT], reduction="sum")


def pretrain(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, out: Path, check_every: int = 200) -> Qwen3ForCausalLM:
    """Train a fresh model on new texts each step and save it to `out`.

    Every `check_every` steps the model so far is saved and its weak skills are printed, because a skill that
    does not come is seen long before the end.
    """
    model = build_model(recipe, tokenizer)
    if recipe.start is not None:
        model.load_state_dict(Qwen3ForCausalLM.from_pretrained(recipe.start, dtype=torch.float32).state_dict())
    # Muon reaches the same loss in about half the steps of AdamW here; it is defined for matrices only.
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(inner, lr=recipe.lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=recipe.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def pace(step: int) -> float:
        if step < recipe.warmup:
            return (step + 1) / recipe.warmup
        done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, pace) for optimizer in optimizers]
    began = time.monotonic()
    for step in range(1, recipe.steps + 1):
        model.train()
        rng = random.Random(f"pretrain/{recipe.seed}/{step}")
        batches = list(
            micro_batches(tokenizer, [draw_text(rng, recipe.scope) for _ in range(recipe.texts)], recipe.micro_batches)
        )
        tokens = sum(int((labels_BT[:, 1:] != IGNORED).sum()) for _, labels_BT in batches)
        total = 0.0
        for ids_BT, labels_BT in batches:
            loss = step_loss(model, ids_BT, labels_BT) / tokens
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        if step % 25 == 0:
            print(f"step {step} loss {total:.4f} {time.monotonic() - began:.0f} s", flush=True)
        if step % check_every == 0 and step < recipe.steps:
            model.save_pretrained(out)
            rates = measure(model, tokenizer, recipe.scope.worlds[-1], names=learnt(recipe.scope), samples=10)
            weak = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items() if rate < 0.97)
            print(f"step {step} weak: {weak or 'none'}", flush=True)
    model.save_pretrained(out)
    return model


def learnt(scope: Scope) -> list[str]:
    """The skills that a base trained in `scope` should have."""
    return [name for name in SKILLS if "(" not in name or any(f"({kind})" in name for kind in scope.kinds)]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 if a skill is below 0.95."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--start", type=Path, help="folder of a model to go on from; its tokenizer is kept")
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="peak learning rate of Muon (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="texts a skill and world in the final table")
    parser.add_argument("--small", action="store_true", help="code problems of the easy world only")
    arguments = parser.parse_args(argv)
    scope = SMALL if arguments.small else EVERYTHING
    recipe = Recipe(
        steps=arguments.steps,
        seed=arguments.seed,
        scope=scope,
        start=arguments.start,
        lr=arguments.lr,
        embedding_lr=arguments.lr / 4,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(recipe.start) if recipe.start else build_tokenizer(recipe.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(arguments.out)
    model = pretrain(recipe, tokenizer, arguments.out)
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,}")
    rates = {
        world: measure(model, tokenizer, world, names=learnt(scope), samples=arguments.samples)
        for world in dict.fromkeys(scope.worlds)
    }
    print(table(rates))
    for world in rates:
        print(f"effective procedures, {world}: {effective_procedures(model, tokenizer, world):.1f}")
    return int(min(rate for found in rates.values() for rate in found.values()) < 0.95)


if __name__ == "__main__":
    sys.exit(main())
