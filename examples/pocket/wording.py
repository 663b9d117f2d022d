"""How notes, answers and feedback are worded, and the prompts that hold them.

Invariant: user turns are rendered through `prompts/*.jinja`, the files that teacher contexts, reflection and
abstraction use in a run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from pmd.examples.pocket.world import (
    LABELS,
    REQUIREMENTS,
    SHIFTS,
    VOCABULARIES,
    CodeTask,
    Family,
    Kind,
    Procedure,
    Task,
    Vocabulary,
    draw_choice,
    draw_digits,
)

PROMPTS = Path(__file__).parent / "prompts"
PLAN = re.compile(r"Plan \w+-\w+: (\w+) then add (\d)\.\n")


@dataclass(frozen=True)
class Text:
    """One user turn, the assistant turn to learn, and what counts as right."""

    prompt: str
    completion: str
    accept: Callable[[str], bool]
    """Whether a completion shows the skill. True for `completion` unless `skip` is positive."""
    skip: int = 0
    """Leading characters of `completion` that carry no loss: a slip the model must live with."""
    keep: int | None = None
    """Leading characters of `completion` to train on, None for all and its end. The rest is left out to save time."""


@cache
def _template(name: str) -> jinja2.Template:
    # Prompts are plain text for a language model; escaping HTML in them would corrupt programs.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROMPTS),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    return environment.get_template(f"{name}.jinja")


def render(name: str, **variables: Any) -> str:
    """Render `prompts/{name}.jinja` as the memory service does."""
    return _template(name).render(**variables)


def strategy(family: Family, procedure: Procedure) -> str:
    """The wording of a strategy, without its `Strategy: ` head."""
    return f"{family}: {procedure}."


def lesson(family: Family, procedure: Procedure) -> str:
    """The wording of a lesson, without its `Lesson: ` head."""
    return f"{family}: not {procedure}."


def first_rule(symbol: str, arrangement: str) -> str:
    """The wording of a behavior about a first symbol, without its `Behavior: ` head."""
    return f"every {symbol} begins with {arrangement}."


def second_rule(symbol: str, shift: int) -> str:
    """The wording of a behavior about a second symbol, without its `Behavior: ` head."""
    return f"every {symbol} ends with add {shift}."


def plan_of(completion: str) -> Procedure | None:
    """The procedure that a completion states in its first line, if any."""
    match = PLAN.match(completion)
    return Procedure(match[1], int(match[2])) if match else None


def draw_family(rng: random.Random, vocabulary: Vocabulary) -> Family:
    """Any combination of the world's symbols."""
    return Family(rng.choice(vocabulary.firsts), rng.choice(vocabulary.seconds))


def draw_procedure(rng: random.Random, vocabulary: Vocabulary) -> Procedure:
    """Any procedure of the world, uniformly."""
    return Procedure(rng.choice(vocabulary.arrangements), rng.choice(SHIFTS))


def draw_task(rng: random.Random, kind: Kind, vocabulary: Vocabulary, truth: Procedure) -> Task:
    """A problem of a random family whose procedure is `truth`."""
    family = draw_family(rng, vocabulary)
    if kind == "code":
        return CodeTask(family, rng.choice(REQUIREMENTS))
    return draw_choice(rng, vocabulary, family, truth)


def answer(rng: random.Random, task: Task, plan: Procedure) -> str:
    """A completion that states `plan` and follows it; a random label where no option ends as its outcome does."""
    if isinstance(task, CodeTask):
        return task.completion(plan)
    return task.completion(plan, task.label_by_end(plan) or rng.choice(LABELS))


def follows(task: Task, plan: Procedure, completion: str) -> bool:
    """Whether a completion states `plan` and carries it out to the letter.

    Compares text instead of running programs: a measure of the base must not execute what it wrote.
    """
    if isinstance(task, CodeTask):
        return completion == task.completion(plan)
    label = task.label(plan)
    return completion in [task.completion(plan, choice) for choice in ([label] if label else LABELS)]


def draw_feedback(rng: random.Random, task: Task) -> str:
    """What the verifier says about a failed program; empty for `choice`."""
    if not isinstance(task, CodeTask):
        return ""
    if rng.random() < 0.2:
        name = rng.choice(("a", "x", "i", "solve", "b", "sum"))
        return rng.choice(
            (
                f"NameError: name '{name}' is not defined",
                f"SyntaxError: invalid syntax (line {rng.randint(1, 4)})",
                f"TypeError: unsupported operand for {name}",
                "IndexError: list index out of range",
                "No code block found.",
                "Time limit exceeded.",
            )
        )
    digits = draw_digits(rng)
    vocabulary = VOCABULARIES["hard"]
    got, expected = (task.output(draw_procedure(rng, vocabulary), digits) for _ in range(2))
    return f"Input: {list(digits)}\nOutput: {got}\nExpected: {expected}"
