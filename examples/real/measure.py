"""What a model makes of the benchmark before anything is trained: its base rate, and what a teacher's prompt adds.

    python -m pmd.examples.real.measure models/smollm2 docs/results

Writes `real-lead.csv`, and `real-lead.md` from it. Each row is a kind of problem and what stands before the question:

- `nothing`: the question as the student gets it.
- `note`: a sentence that says the rule.
- `other`: two answered questions of other families.
- `related`: two of families that share a part of the rule: rooms of the same trade, pairs with one of the words.
- `same 1`, `same 2`: answered questions of the same family, as the memory of passed attempts shows them.

The numbers are of one world and few samples: they say in which regime the benchmark is, no more.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from pmd.examples.real.world import KINDS, SYSTEM, TRADES, Kind, problem_sets

MAX_TOKENS = 16
Problem = dict[str, Any]
Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Row:
    """A line of `real-lead.csv`."""

    kind: str
    before: str
    temperature: float
    problems: int
    samples: int
    avg: float
    any_passed: float
    prompt_tokens: int


class Sampler:
    """Draws completions of several prompts in one batch; each prompt's cache is computed once for its samples."""

    def __init__(self, folder: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._end = self._tokenizer.eos_token_id

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Turns], samples: int, temperature: float) -> tuple[list[list[str]], int]:
        """Completions of each prompt ("" for one that did not end within `MAX_TOKENS`), and the longest prompt's length
        in tokens."""
        texts = [self._tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts]
        batch = self._tokenizer(texts, return_tensors="pt", add_special_tokens=False, padding=True)
        cache, mask = DynamicCache(), batch.attention_mask
        at = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self._model(batch.input_ids, mask, at, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(samples)
        logits, mask, at = (x.repeat_interleave(samples, 0) for x in (out.logits[:, -1], mask, at[:, -1:]))
        rows = torch.empty(len(logits), 0, dtype=torch.long)
        while rows.shape[1] < MAX_TOKENS and not (rows == self._end).any(1).all():
            token = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
            rows, mask, at = torch.cat([rows, token], 1), torch.cat([mask, torch.ones_like(token)], 1), at + 1
            logits = self._model(token, mask, at, past_key_values=cache).logits[:, -1]
        ended = [row[: row.index(self._end)] if self._end in row else [] for row in rows.tolist()]
        drawn = [self._tokenizer.decode(row) for row in ended]
        return [drawn[i : i + samples] for i in range(0, len(drawn), samples)], batch.input_ids.shape[1]


def family(problem: Problem) -> str:
    """The family that a problem's id ends with."""
    return str(problem["id"].split("-", 4)[4])


def _turns(problems: Sequence[Problem]) -> Turns:
    """Problems with their right answers, as turns."""
    made: Turns = []
    for problem in problems:
        made += [problem["messages"][-1], {"role": "assistant", "content": problem["verifier"]["answer"]}]
    return made


def _parts(kind: Kind, name: str) -> set[str]:
    """What two families can share: the trade of a room, the words of a pair."""
    if kind == "words":
        return set(name.split("-"))
    return {rooms[0] for rooms in TRADES if name.replace("-", " ") in rooms}


def before(kind: Kind, what: str, problem: Problem, train: Sequence[Problem], rng: random.Random) -> Turns:
    """The turns that stand between the fixed ones and the question."""
    own = family(problem)
    of: dict[str, Callable[[str], bool]] = {
        "same": lambda other: other == own,
        "related": lambda other: other != own and bool(_parts(kind, own) & _parts(kind, other)),
        "other": lambda other: not _parts(kind, own) & _parts(kind, other),
    }
    name, _, count = what.partition(" ")
    fitting = [p for p in train if p["id"] != problem["id"] and of[name](family(p))] if name in of else []
    return _turns(rng.sample(fitting, min(int(count or 2), len(fitting))))


def note(problem: Problem) -> str:
    """The rule of a problem's family in words: an example stands for the form, as people write such rules."""
    answer, asked = problem["verifier"]["answer"], problem["messages"][-1]["content"].partition(":")[0]
    return f"House rule: {asked} is written {answer}."


CONTEXTS = ("nothing", "same 2", "related", "note", "other", "same 1")


def measure(sampler: Sampler, kind: Kind, what: str, problems: int, samples: int, temperature: float) -> Row:
    """One row: the first problems of `test`, with `what` before each question."""
    sets = problem_sets(kind, 0)
    rng = random.Random(f"{kind}/{what}")
    asked, prompts = sets["test"][:problems], []
    for problem in asked:
        *fixed, question = problem["messages"]
        shown = before(kind, what, problem, sets["train"], rng)
        if what == "note":  # the rule, seen at another problem of the family
            twin = next(p for p in sets["train"] if family(p) == family(problem))
            fixed = [{"role": "system", "content": f"{note(twin)} {SYSTEM[kind]}"}, *fixed[1:]]
        prompts.append([*fixed, *shown, question])
    drawn, tokens = sampler(prompts, samples, temperature)
    passed = [
        [text.strip() == problem["verifier"]["answer"] for text in texts]
        for problem, texts in zip(asked, drawn, strict=True)
    ]
    rate = sum(map(sum, passed)) / (samples * problems)
    return Row(kind, what, temperature, problems, samples, rate, sum(map(any, passed)) / problems, tokens)


def page(rows: Sequence[Row]) -> str:
    """The table of all rows."""
    lines = [
        "# Real benchmark: before training",
        "",
        "`python -m pmd.examples.real.measure` writes this page from [real-lead.csv](real-lead.csv). World 0, exact",
        "match of the whole completion, SmolLM2-135M-Instruct by transformers alone: no service, no memory; the turns",
        "are right answers to training problems, put there by hand.",
        "",
        "| problems | before the question | T | avg | any passed | problems x samples | prompt tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.kind} | {r.before} | {r.temperature} | {r.avg:.2f} | {r.any_passed:.2f} | {r.problems} x {r.samples}"
        f" | {r.prompt_tokens} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is not in the table yet: an interrupted call is gone on with."""
    parser = argparse.ArgumentParser(description="Base rate and what a teacher's prompt adds.")
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("out", type=Path, help="folder for the table")
    parser.add_argument("--problems", type=int, default=9)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    asked = parser.parse_args()
    table = asked.out / "real-lead.csv"
    rows: list[Row] = []
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            for r in csv.DictReader(file):
                counts = int(r["problems"]), int(r["samples"]), float(r["avg"]), float(r["any_passed"])
                rows.append(Row(r["kind"], r["before"], float(r["temperature"]), *counts, int(r["prompt_tokens"])))
    sampler = Sampler(asked.model)
    torch.manual_seed(0)
    for kind in KINDS:
        for what in CONTEXTS:
            if any((r.kind, r.before, r.temperature) == (kind, what, asked.temperature) for r in rows):
                continue
            began = time.monotonic()
            rows.append(measure(sampler, kind, what, asked.problems, asked.samples, asked.temperature))
            with table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([[f.name for f in fields(Row)], *map(astuple, rows)])
            (asked.out / "real-lead.md").write_text(page(rows), encoding="utf-8")
            sys.stdout.write(f"{rows[-1]} {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
