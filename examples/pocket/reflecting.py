"""Pre-training texts that write memory: reflection on attempts, and abstraction of what several notes share."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any, Literal

from pmd.examples.pocket.wording import (
    Text,
    draw_family,
    draw_feedback,
    draw_procedure,
    draw_task,
    first_rule,
    lesson,
    render,
    second_rule,
    strategy,
)
from pmd.examples.pocket.world import SHIFTS, VOCABULARIES, Family, Kind, Procedure, Vocabulary, WorldName, plan_line

Mode = Literal["contrast", "successes", "failures"]
MODES: tuple[Mode, ...] = ("contrast", "successes", "failures")
Shape = Literal["first", "second", "both", "family", "mixed"]


def reflect_text(rng: random.Random, mode: Mode, kind: Kind, world: WorldName) -> Text:
    """Attempts at one problem, its old insight, and the insight that should replace it.

    The rule: the last success is the strategy; without one, an old strategy stays unless a failure used it.
    Lessons are what failed now (they replace the old ones), never what a strategy says.
    """
    vocabulary = VOCABULARIES[world]
    truth = draw_procedure(rng, vocabulary)
    task = draw_task(rng, kind, vocabulary, truth)
    family = task.family

    def draw(*likely: Procedure) -> Procedure:
        return rng.choice(likely) if likely and rng.random() < 0.5 else draw_procedure(rng, vocabulary)

    old = _distinct([draw(truth) for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 1, 2)))])
    old_lessons = [p for p in _distinct([draw() for _ in range(rng.choice((0, 0, 1, 2)))]) if p not in old]
    passed: list[Procedure] = []
    failed: list[Procedure] = []
    if mode != "failures":
        passed = _distinct([truth if rng.random() < 0.8 else draw(*old) for _ in range(rng.choice((1, 2)))])
    if mode != "successes":
        # The memory shows attempts that read alike once, and no failure that reads like a success.
        failed = [p for p in _distinct([draw(*old) for _ in range(rng.choice((1, 2, 2)))]) if p not in passed]
    broken = [rng.random() < 0.04 for _ in failed]

    lessons = [p for p, b in zip(failed, broken, strict=True) if not b]
    strategies = passed[-1:] or [p for p in old if p not in lessons]

    prompt = render(
        "reflect",
        problem=task.text,
        mode=mode,
        successes=[{"text": plan_line(family, p)} for p in passed],
        failures=[
            {
                "text": _broken_head(rng) if b else plan_line(family, p),
                "feedback": draw_feedback(rng, task) if rng.random() < 0.4 else "",
            }
            for p, b in zip(failed, broken, strict=True)
        ],
        strategies=[strategy(family, p) for p in old],
        lessons=[lesson(family, p) for p in old_lessons],
    )
    lines = [f"Strategy: {strategy(family, p)}" for p in strategies] + [f"Lesson: {lesson(family, p)}" for p in lessons]
    completion = "\n".join(lines) or "None"
    return Text(prompt, completion, partial(_same_lines, completion))


def _distinct(procedures: list[Procedure]) -> list[Procedure]:
    return list(dict.fromkeys(procedures))


def _broken_head(rng: random.Random) -> str:
    """The head of an attempt that states no plan: nothing can be learnt from it."""
    return rng.choice(("```python", "def solve(a):", "Plan", "Work:", "return a"))


def _same_lines(wanted: str, completion: str) -> bool:
    """Whether both hold the same notes: their order says nothing."""
    return sorted(completion.split("\n")) == sorted(wanted.split("\n"))


def abstract_text(rng: random.Random, shape: Shape, world: WorldName) -> Text:
    """The insights of one cluster, and the rules that they share.

    A symbol earns a rule when at least three notes and half of the cluster are about it, and at least 60 % of
    those agree on its half. At most two rules are written, first symbols before second ones. Close calls are
    drawn again: near the border a count is beyond a model this small, and the memory checks it anyway.
    """
    vocabulary = VOCABULARIES[world]
    while True:
        notes = _draw_notes(rng, shape, vocabulary)
        rules = shared_rules(notes)
        if len(rules) <= 2 and shared_rules(notes, share=0.4, purity=0.5) == rules:
            break
    prompt = render("abstract", insights=[{"strategies": [strategy(*note)]} for note in notes])
    completion = "\n".join(f"Behavior: {rule}" for rule in rules) or "None"
    return Text(prompt, completion, partial(_same_lines, completion))


def _draw_notes(rng: random.Random, shape: Shape, vocabulary: Vocabulary) -> list[tuple[Family, Procedure]]:
    """The families and procedures of one cluster that shares what `shape` says, with some share of noise."""
    family = draw_family(rng, vocabulary)
    arrangement = {symbol: rng.choice(vocabulary.arrangements) for symbol in vocabulary.firsts}
    shift = {symbol: rng.choice(SHIFTS) for symbol in vocabulary.seconds}
    right = rng.choice((1.0, 1.0, rng.uniform(0.5, 1.0), rng.uniform(0.0, 0.5)))
    notes: list[tuple[Family, Procedure]] = []
    for _ in range(rng.choice((3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 12))):
        other = draw_family(rng, vocabulary)
        share = rng.choice(("first", "second")) if shape == "both" else shape
        about = {
            "first": Family(family.first, other.second),
            "second": Family(other.first, family.second),
            "family": family,
            "mixed": other,
        }[share]
        noise = draw_procedure(rng, vocabulary)
        notes.append(
            (
                about,
                Procedure(
                    arrangement[about.first] if rng.random() < right else noise.arrangement,
                    shift[about.second] if rng.random() < right else noise.shift,
                ),
            )
        )
    return notes


def shared_rules(
    notes: list[tuple[Family, Procedure]], least: int = 3, share: float = 0.5, purity: float = 0.6
) -> list[str]:
    """The rules that `notes` support, first symbols before second ones, each in order of appearance."""
    firsts: dict[str, Counter[str]] = {}
    seconds: dict[str, Counter[int]] = {}
    for family, procedure in notes:
        firsts.setdefault(family.first, Counter())[procedure.arrangement] += 1
        seconds.setdefault(family.second, Counter())[procedure.shift] += 1

    def supported(halves: Counter[Any]) -> bool:
        # A share of the cluster: what only a corner of it has in common is not what the cluster is about.
        about = halves.total()
        return about >= max(least, share * len(notes)) and max(halves.values()) >= purity * about

    return [first_rule(symbol, words.most_common(1)[0][0]) for symbol, words in firsts.items() if supported(words)] + [
        second_rule(symbol, amounts.most_common(1)[0][0]) for symbol, amounts in seconds.items() if supported(amounts)
    ]
