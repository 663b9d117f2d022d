"""The skill table: does a base model do what the benchmark takes for granted?

Each skill is a way to draw texts; its score is the share of sampled completions (temperature 1) that the
text's own rule accepts. Worlds are drawn anew for each text, from seeds that pre-training never uses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pmd.examples.pocket.reflecting import MODES, Mode, Shape, abstract_text, reflect_text
from pmd.examples.pocket.solving import MIXED, NOTHING, Mix, solve_text
from pmd.examples.pocket.wording import Text, draw_task, plan_of
from pmd.examples.pocket.world import KINDS, VOCABULARIES, Kind, WorldName, draw_world, plan_line, problem_sets

Draw = Callable[[random.Random, WorldName], Text]

ADVICE = {
    "no advice": NOTHING,
    "strategy": Mix(strategy=1),
    "strategy, distractors": Mix(strategy=1, distract=1),
    "strategy against behaviors": Mix(strategy=1, first_rule=1, second_rule=1, truthful=0.2),
    "both behaviors": Mix(first_rule=1, second_rule=1),
    "both behaviors, distractors": Mix(first_rule=1, second_rule=1, distract=1),
    "first behavior": Mix(first_rule=1),
    "second behavior": Mix(second_rule=1),
    "demonstration": Mix(solution=1),
    "demonstration against notes": Mix(
        solution=1, strategy=1, first_rule=0.7, second_rule=0.7, forbid=0.5, distract=0.5, truthful=0.2
    ),
    "passed experience": Mix(passed=1),
    "lessons": Mix(forbid=1),
    "distractors alone": Mix(distract=1),
    "feedback alone": Mix(feedback=1),
    "mixed": MIXED,
}


def _skills() -> dict[str, Draw]:
    def solve(mix: Mix, kind: Kind) -> Draw:
        return lambda rng, world: solve_text(rng, mix, kind, world)

    def reflect(mode: Mode, kind: Kind) -> Draw:
        return lambda rng, world: reflect_text(rng, mode, kind, world)

    def abstract(*shapes: Shape) -> Draw:
        return lambda rng, world: abstract_text(rng, rng.choice(shapes), world)

    return {
        **{f"{name} ({kind})": solve(mix, kind) for name, mix in ADVICE.items() for kind in KINDS},
        **{f"reflect, {mode} ({kind})": reflect(mode, kind) for mode in MODES for kind in KINDS},
        "abstract, one symbol": abstract("first", "second"),
        "abstract, two symbols": abstract("both"),
        "abstract, one family": abstract("family"),
        "abstract, unrelated": abstract("mixed"),
    }


SKILLS = _skills()


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Token ids of each user turn with the chat template and the generation prompt."""
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
    batch_size: int = 128,
) -> list[str]:
    """One completion a prompt, in order, without its end token.

    Prompts are batched by length and left-padded; `temperature` 0 is greedy. Seeds torch's global generator.
    """
    torch.manual_seed(seed)
    model.eval()
    ids = encode_prompts(tokenizer, prompts)
    # A folder's own generation config must not change what is measured.
    choose: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        choose |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    completions = [""] * len(ids)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, padding_side="left", return_tensors="pt")
        out_BT = model.generate(**batch, **choose, max_new_tokens=max_new_tokens)
        made = tokenizer.batch_decode(out_BT[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, completion in zip(rows, made, strict=True):
            completions[row] = completion
    return completions


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: WorldName = "hard",
    *,
    names: Iterable[str] | None = None,
    samples: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """The share of accepted completions of each named skill (default: all), over `samples` texts each."""
    chosen = list(SKILLS if names is None else names)
    texts = [
        SKILLS[name](random.Random(f"skill/{name}/{world}/{seed}/{number}"), world)
        for name in chosen
        for number in range(samples)
    ]
    completions = sample(model, tokenizer, [text.prompt for text in texts], seed=seed)
    right = [text.accept(completion) for text, completion in zip(texts, completions, strict=True)]
    return {name: sum(right[i * samples : (i + 1) * samples]) / samples for i, name in enumerate(chosen)}


@torch.no_grad()
def effective_procedures(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: WorldName, problems: int = 16, seed: int = 0
) -> float:
    """Exp of the entropy, in procedures, of what the model plans without advice, averaged over `code` problems.

    Exact, by scoring every plan line; probability outside the world's procedures counts as one more. The
    ideal is the number of procedures: 24 (easy) or 64 (hard).
    """
    model.eval()
    vocabulary = VOCABULARIES[world]
    plans = vocabulary.procedures
    entropies = []
    for number in range(problems):
        rng = random.Random(f"effective/{world}/{seed}/{number}")
        task = draw_task(rng, "code", vocabulary, plans[0])
        head = encode_prompts(tokenizer, [task.text])[0]
        lines = [plan_line(task.family, plan) for plan in plans]
        tails: list[list[int]] = tokenizer(lines, add_special_tokens=False)["input_ids"]
        # "." merges with the line break in an answer, so the plan is scored up to its digit.
        ids_BT = torch.tensor([head + tail[:-1] for tail in tails])
        logp_BTV = model(input_ids=ids_BT).logits.float().log_softmax(-1)[:, len(head) - 1 : -1]
        logp_B = logp_BTV.gather(-1, ids_BT[:, len(head) :, None]).sum((1, 2))
        rest = max(1.0 - logp_B.exp().sum().item(), 1e-12)
        entropies.append(-(logp_B.exp() * logp_B).sum().item() - rest * math.log(rest))
    return math.exp(sum(entropies) / problems)


def base_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: WorldName,
    *,
    world_seed: int = 0,
    problems: int = 256,
    seed: int = 0,
) -> float:
    """Share of a world's `code` problems whose procedure the model names without advice, in one sample each.

    Judged by the plan alone: a lossy requirement that a wrong plan happens to satisfy is not counted. The
    verifier counts it, and reads about 0.02 more in the hard world.
    """
    procedures = {str(family): procedure for family, procedure in draw_world(world, world_seed).procedures.items()}
    records = problem_sets("code", world, world_seed, train=problems, test=0, unseen=0)["train"]
    truths = [procedures["-".join(record["id"].split("-")[-2:])] for record in records]
    completions = sample(model, tokenizer, [r["messages"][0]["content"] for r in records], seed=seed)
    return sum(plan_of(made) == right for made, right in zip(completions, truths, strict=True)) / problems


def table(rates: Mapping[WorldName, Mapping[str, float]]) -> str:
    """Rates of the same skills, one column a world, as a Markdown table."""
    worlds = list(rates)
    rows = [
        f"| {name} | " + " | ".join(f"{rates[world][name]:.3f}" for world in worlds) + " |" for name in rates[worlds[0]]
    ]
    return "\n".join([f"| skill | {' | '.join(worlds)} |", "|---" * (1 + len(worlds)) + "|", *rows])
