"""Sampling: our loop against `transformers.generate`, same model, same prompts, in turn in one process.

    python -m bench.rollout            # on few cores: OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0

Prints completion tokens per second of both (best and median over the rounds) and their ratio. Absolute figures say
more about the machine than about the code; the ratio is what to quote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.in_turn import compare, ratio
from pmd.examples.pocket.world import problem_sets
from pmd.services.common.wire import Sampling
from pmd.services.rollout.completion import Row
from pmd.services.rollout.engines.transformers.sampling import sample

BASE = Path(__file__).parents[1] / "examples" / "pocket" / "base"
MAX_TOKENS = 96


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    problems = problem_sets("code", "hard", 0, train=arguments.problems)["train"]
    chats = [problem["messages"] for problem in problems]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    prompts = [tuple(ids) for ids in encoded for _ in range(arguments.samples)]
    padded = tokenizer.pad({"input_ids": [list(p) for p in prompts]}, padding_side="left", return_tensors="pt")

    def ours() -> int:
        rows = [Row(prompt_ids=prompt, seed=0, stream=i) for i, prompt in enumerate(prompts)]
        drawn = sample(
            model,
            rows,
            Sampling(max_tokens=MAX_TOKENS),
            ends={tokenizer.eos_token_id},
            prefill_tokens=32768,
            check=lambda: None,
        )
        return sum(len(row.token_ids) for row in drawn)

    def theirs() -> int:
        out = model.generate(**padded, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_TOKENS)
        completions = out[:, padded["input_ids"].shape[1] :]
        ended = (completions == tokenizer.eos_token_id).int().cumsum(1) - (completions == tokenizer.eos_token_id).int()
        return int((ended == 0).sum())

    ratio(compare({"ours": ours, "generate": theirs}, arguments.rounds), "ours", "generate")


if __name__ == "__main__":
    main()
