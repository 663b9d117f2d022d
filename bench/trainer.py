"""A training step: ours against TRL's SDPO trainer, on the same rollouts, teacher prompts and objective.

    python -m bench.trainer                          # the pocket model, all of its 749 tokens
    python -m bench.trainer --vocabulary 151936      # a model with the vocabulary of Qwen3, top-100 and a tail

Needs the `bench` extra. Each contender computes in a process of its own, in turn with the other, several steps from the
same weights on; a step is 256 rollouts of 32 problems in 4 optimizer steps with a moving-average teacher,
and ends with weights in memory: neither publishes nor saves. Both get the micro-batch that is asked for, and no
gradient checkpointing. Ours runs with the step's own clip of the trainer-to-sampler ratio, which TRL does not have and
which changes nothing here: the sampler's probabilities are the trainer's. Prints the loss of the first step, which
must agree, then wall and CPU time per step and the process's largest memory. Ratios are what to quote.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from pmd.examples.pocket import wording
from pmd.examples.pocket.world import Family, draw_world, problem_sets
from pmd.services.common.wire import Sampling
from pmd.services.rollout.completion import Row
from pmd.services.rollout.engines.transformers.sampling import sample
from pmd.services.trainer.training.batch import Sample, TrainBatch

BASE = Path(__file__).parents[1] / "examples" / "pocket" / "base"
MINI_BATCHES = 4
LR = 1e-3
EMA = 0.02
CLIP = 2.0
TOP_K = 100
CONTENDERS = ("ours", "trl")


def read_arguments() -> argparse.Namespace:
    """The command line, of this program and of its contenders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="processes per contender")
    parser.add_argument("--steps", type=int, default=4, help="steps of a process; the first warms up")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--micro", type=int, default=64, help="rollouts in a forward pass")
    parser.add_argument("--vocabulary", type=int, help="make a small random model with so many tokens")
    parser.add_argument("--model", type=Path, default=BASE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.problems * arguments.samples % (MINI_BATCHES * arguments.micro):
        parser.error(f"--problems x --samples: a multiple of {MINI_BATCHES} x --micro")
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = read_arguments()
    hf_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.vocabulary:
            arguments.model = widened(Path(folder), arguments.vocabulary)
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Run the contenders in turn and print what they took."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    keep = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "problems", "samples", "micro", "model")]
    top_k = [f"--vocabulary={arguments.vocabulary}"] if arguments.vocabulary else []
    for _ in range(arguments.turns):
        for name in CONTENDERS:
            command = [sys.executable, "-m", f"bench.step_{name}", *keep, *top_k]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            taken[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.turns} turns of {arguments.steps} steps")
    print(f"{'':6}{'first loss':>12}{'wall s, min':>13}{'median':>8}{'cpu s, min':>12}{'median':>8}{'peak MB':>9}")
    for name, turns in taken.items():
        walls, cpus = ([s for turn in turns for s in turn[of]] for of in ("wall_s", "cpu_s"))
        peak = max(turn["peak_mb"] for turn in turns)
        print(
            f"{name:6}{turns[0]['loss']:12.6f}{min(walls):13.2f}{statistics.median(walls):8.2f}"
            f"{min(cpus):12.2f}{statistics.median(cpus):8.2f}{peak:9.0f}"
        )
    for of in ("wall_s", "cpu_s"):
        ratios = [statistics.median(b[of]) / statistics.median(a[of]) for a, b in zip(*taken.values(), strict=True)]
        print(f"{of}: trl / ours, median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def widened(folder: Path, vocabulary: int) -> Path:
    """A random model of the pocket base's shape and `vocabulary` tokens, with the pocket tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(BASE, vocab_size=vocabulary)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    return folder


def draw(arguments: argparse.Namespace) -> TrainBatch:
    """What the pocket base answers, each problem with notes about its family for the teacher."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    world = draw_world("hard", 0)
    problems = problem_sets("code", "hard", 0, train=arguments.problems)["train"]

    def chat(content: str) -> tuple[int, ...]:
        turn = [{"role": "user", "content": content}]
        return tuple(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])

    prompts = [chat(problem["messages"][0]["content"]) for problem in problems]
    rows = [
        Row(prompt, seed=0, stream=i) for i, prompt in enumerate(p for p in prompts for _ in range(arguments.samples))
    ]
    ends = {tokenizer.eos_token_id}
    drawn = sample(base, rows, Sampling(max_tokens=96), ends=ends, prefill_tokens=32768, check=lambda: None)
    samples: list[Sample] = []
    for i, (row, completion) in enumerate(zip(rows, drawn, strict=True)):
        problem = problems[i // arguments.samples]
        asked = problem["messages"][0]["content"]
        family = next(f for f in world.procedures if str(f) in asked)
        samples.append(
            Sample(
                rollout_id=f"{problem['id']}#{i}",
                problem_id=problem["id"],
                prompt_ids=row.prompt_ids,
                completion_ids=tuple(completion.token_ids),
                sampler_logps=(),
                teacher_ids=chat(teacher_turn(asked, family, world.procedures[family])),
                reward=0.0,
                advantage=0.0,
                trained=True,
            )
        )
    return TrainBatch(tuple(samples))


def teacher_turn(problem: str, family: Family, procedure: wording.Procedure) -> str:
    """The problem with a strategy of its family and a behavior about each of its symbols."""
    return wording.render(
        "teacher",
        problem=problem,
        behaviors=[
            wording.first_rule(family.first, procedure.arrangement),
            wording.second_rule(family.second, procedure.shift),
        ],
        strategies=[wording.strategy(family, procedure)],
        lessons=[],
        experiences=[],
        feedback=None,
        solution=None,
    )


def now() -> tuple[float, float]:
    """Wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


def report(marks: Sequence[tuple[float, float]], loss: float) -> None:
    """Print what the steps between `marks` took, without the first, for `compare` to read."""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks[1:])]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    taken = {"loss": loss, "wall_s": [s[0] for s in steps], "cpu_s": [s[1] for s in steps], "peak_mb": peak_mb}
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
