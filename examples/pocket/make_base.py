"""Make the base model: tokenizer, pre-training, Hugging Face folder, skill table.

    python -m pmd.examples.pocket.make_base --out FOLDER

The same arguments on the same machine and package versions give the same folder. How the committed one was made is
in README.md. On noisy or few cores set OMP_WAIT_POLICY=PASSIVE: spinning worker threads can slow a step twentyfold.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from pmd.examples.pocket.corpus import EVERYTHING, SMALL, Scope, draw_text
from pmd.examples.pocket.model import build_model
from pmd.examples.pocket.skills import SKILLS, effective_procedures, encode_prompts, measure, table
from pmd.examples.pocket.tokenizer import train_tokenizer
from pmd.examples.pocket.wording import Text

VOCAB_SIZE = 768
IGNORED = -100
GAINS = ("q_norm.weight", "k_norm.weight")


@dataclass(frozen=True)
class Recipe:
    """How a base is trained."""

    steps: int = 2000
    texts: int = 128
    """Texts a step, over all workers."""
    workers: int = 2
    """Processes of one thread each."""
    micro_batches: int = 4
    """A worker's texts of a step are sorted by length and cut into this many batches, so that little is padding."""
    lr: float = 0.012
    """Muon, for the matrices inside the layers."""
    embedding_lr: float = 3e-3
    """AdamW, for embeddings and norms."""
    warmup: int = 30
    """Steps of linear rise."""
    decay: float = 0.4
    """Share of the steps, at the end, over which the rates fall linearly."""
    width: int = 128
    layers: int = 3
    scope: Scope = EVERYTHING
    seed: int = 0


def build_tokenizer(seed: int, texts: int = 6000) -> PreTrainedTokenizerFast:
    """A tokenizer trained on both turns of `texts` texts of the corpus."""
    rng = random.Random(f"tokenizer/{seed}")
    drawn = [draw_text(rng) for _ in range(texts)]
    return train_tokenizer((turn for text in drawn for turn in ("user\n" + text.prompt, text.completion)), VOCAB_SIZE)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[Text]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of each text; labels only where the text carries loss."""
    prompts = encode_prompts(tokenizer, [text.prompt for text in texts])
    answers = tokenizer([text.completion for text in texts], add_special_tokens=False, return_offsets_mapping=True)
    rows = []
    for text, prompt, tokens, offsets in zip(
        texts, prompts, answers["input_ids"], answers["offset_mapping"], strict=True
    ):
        answer = [*tokens, tokenizer.eos_token_id]
        if text.keep is not None:
            answer = answer[: sum(start < text.keep for start, _ in offsets)]
        skipped = sum(start < text.skip for start, _ in offsets)
        rows.append((prompt + answer, [IGNORED] * (len(prompt) + skipped) + answer[skipped:]))
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


def pretrain(
    rank: int, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, out: Path, rendezvous: str, check_every: int = 400
) -> None:
    """Train a fresh model on new texts each step; rank 0 saves it to `out`.

    One of `recipe.workers` equal processes of one thread each: models this small gain little from threads (measured
    on two cores: 1.6 times the speed of one process with two). Every `check_every` steps rank 0 saves the model so
    far and prints its weak skills, because a skill that does not come is seen long before the end.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=recipe.workers)
    model = build_model(tokenizer, width=recipe.width, layers=recipe.layers, seed=recipe.seed)
    parameters = list(model.parameters())
    # Muon is defined for matrices; it reaches the same loss in about half the steps of AdamW here.
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    gains = [p for name, p in named if name.endswith(GAINS)]
    outer = [p for name, p in named if "embed" in name or (p.ndim == 1 and not name.endswith(GAINS))]
    groups: list[dict[str, Any]] = [{"params": outer}, {"params": gains, "lr": 3 * recipe.embedding_lr}]
    optimizers = [
        torch.optim.Muon(inner, lr=recipe.lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(groups, lr=recipe.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def pace(step: int) -> float:
        # Selecting one note of many comes late and suddenly; a rate that falls from the start would prevent it.
        left = (recipe.steps - step) / (recipe.steps * recipe.decay)
        return min(1.0, (step + 1) / recipe.warmup, max(0.02, left))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, pace) for optimizer in optimizers]
    share = recipe.texts // recipe.workers
    began = time.monotonic()
    for step in range(1, recipe.steps + 1):
        rng = random.Random(f"pretrain/{recipe.seed}/{step}/{rank}")
        texts = [draw_text(rng, recipe.scope) for _ in range(share)]
        batches = list(micro_batches(tokenizer, texts, recipe.micro_batches))
        tokens = torch.tensor(sum((labels_BT[:, 1:] != IGNORED).sum().item() for _, labels_BT in batches))
        dist.all_reduce(tokens)
        total = torch.zeros(())
        for ids_BT, labels_BT in batches:
            loss = step_loss(model, ids_BT, labels_BT) / tokens
            torch.autograd.backward(loss)
            total += loss.detach()
        gradient = torch.nn.utils.parameters_to_vector([p.grad for p in parameters if p.grad is not None])
        dist.all_reduce(gradient)
        torch.nn.utils.vector_to_parameters(gradient, [p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        if step % 50 == 0:
            dist.all_reduce(total)
            if rank == 0:
                print(f"step {step} loss {total.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
        if step % check_every == 0 and step < recipe.steps and rank == 0:
            model.save_pretrained(out)
            rates = measure(model, tokenizer, recipe.scope.worlds[-1], names=learnt(recipe.scope), samples=16)
            weak = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items() if rate < 0.97)
            print(f"step {step} weak: {weak or 'none'}", flush=True)
            model.train()
    if rank == 0:
        model.save_pretrained(out)
    dist.destroy_process_group()


def learnt(scope: Scope) -> list[str]:
    """The skills that a base trained in `scope` should have."""
    return [name for name in SKILLS if "(" not in name or any(f"({kind})" in name for kind in scope.kinds)]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 if a skill is below 0.95."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="peak learning rate of Muon (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="texts a skill and world in the final table")
    parser.add_argument("--small", action="store_true", help="code problems of the easy world only")
    arguments = parser.parse_args(argv)
    scope = SMALL if arguments.small else EVERYTHING
    recipe = Recipe(
        steps=arguments.steps,
        seed=arguments.seed,
        scope=scope,
        lr=arguments.lr,
        embedding_lr=arguments.lr / 4,
    )
    tokenizer = build_tokenizer(recipe.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            pretrain, (recipe, tokenizer, arguments.out, f"file://{folder}/rendezvous"), nprocs=recipe.workers
        )
    model = Qwen3ForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
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
