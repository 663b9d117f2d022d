"""House conventions in plain English, all drawn from seeds: what a real language model can't know and can learn.

Invariants:
- A *family* is a kind of room, a house word, or two. The rule of a world says which of the forms in the question
  is right for it; nothing in a problem's text does.
- `signs`: the trade of a room decides the style of its sign. Rooms that are held out (`unseen`) belong to the same
  trades, so the rule is known and the family is not.
- `words`: a house word stands for an operation on a list. What is held out are pairs of them, one after the other.
- Every problem begins with the same few turns, of families that are in no split: they show that an answer is one of the
  forms, and nothing of the rule.
- The same arguments give the same problems on every machine: only `random.Random` seeded by strings. No question occurs
  twice, within a split or across splits.

This module needs the standard library only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["signs", "words"]

KINDS: tuple[Kind, ...] = ("signs", "words")
SPLITS = ("train", "test", "unseen")
SIZES = {"train": 54, "test": 18, "unseen": 18}
"""Problems of each split."""

STYLES = ("[{n}]", "({n})", "<{n}>")
TRADES: tuple[tuple[str, ...], ...] = (
    ("kitchen", "laundry", "bathroom", "pantry", "washroom"),
    ("office", "studio", "workshop", "laboratory", "bureau"),
    ("garage", "cellar", "attic", "warehouse", "barn"),
)
HELD_OUT_ROOMS = 2
"""Of each trade."""
DOORS = ("gate", "hall", "stairs")
"""Of no trade: what the first turns are about, one of each style, so that none is likelier than the others."""

OPERATIONS = ("sorted({x})", "{x}[::-1]", "{x}[1:]", "{x}[:-1]", "{x}[::2]", "{x} * 2")
WORDS = ("fettle", "quell", "scrive", "tamp", "hobble", "brindle")
HELD_OUT_PAIRS = 6

SYSTEM = {"signs": "Answer with the sign only.", "words": "Answer with the expression only."}
OPTIONS = 3


@dataclass(frozen=True)
class Question:
    """A question with its right answer."""

    family: str
    text: str
    answer: str

    def turns(self) -> list[dict[str, str]]:
        """It and its answer as turns of a chat."""
        return [{"role": "user", "content": self.text}, {"role": "assistant", "content": self.answer}]


def choice(options: Sequence[str], rng: random.Random) -> str:
    """The options in an order of chance, as a question ends."""
    shuffled = rng.sample(options, len(options))
    return f"{', '.join(shuffled[:-1])} or {shuffled[-1]}?"


def sign(room: str, number: int, style: str, rng: random.Random) -> Question:
    """What is written on the door of a room."""
    forms = [each.format(n=number) for each in STYLES]
    text = f"Sign for the {room}, {room} {number}: {choice(forms, rng)}"
    return Question(room.replace(" ", "-"), text, style.format(n=number))


def expression(operations: Sequence[str], name: str) -> str:
    """Python for operations on the list `name`, the first one innermost."""
    made = name
    for operation in operations:
        made = (f"({made})" if made.endswith("* 2") else made) if "[" in operation else made
        made = operation.format(x=made)
    return made


def word(words: Sequence[str], operations: Sequence[str], name: str, rng: random.Random) -> Question:
    """What one or two house words mean; the wrong forms are as long as the right one."""
    answer = expression(operations, name)
    others = [expression(each, name) for each in itertools.permutations(OPERATIONS, len(operations))]
    wrong = rng.sample([other for other in others if other != answer], OPTIONS - 1)
    said = " then ".join(words)
    text = f"House word {said}: {said} {name} is {choice([answer, *wrong], rng)}"
    return Question("-".join(words), text, answer)


def problem_sets(kind: Kind, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The problem sets of one world, as problem records by split.

    Returns `{"train": [...], "test": [...], "unseen": [...]}` with `SIZES` records
    `{"id", "messages", "verifier", "domain", "split"}`. `test` holds new problems of families that occur in training,
    `unseen` families that never do; both cover their families evenly.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: use 'signs' or 'words'")
    rng = random.Random(f"real/{kind}/{seed}")
    known, new = _signs(rng) if kind == "signs" else _words(rng)
    shown = demonstrations(kind)
    sets: dict[str, list[dict[str, Any]]] = {}
    for split, questions in (("train", known), ("test", known), ("unseen", new)):
        sets[split] = [
            {
                "id": f"{kind}-{seed}-{split}-{number:02d}-{question.family}",
                "messages": [*shown, {"role": "user", "content": question.text}],
                "verifier": {"kind": "exact", "answer": question.answer},
                "domain": f"real-{kind}",
                "split": split,
            }
            for number, question in enumerate(itertools.islice(questions, SIZES[split]))
        ]
    return sets


def demonstrations(kind: Kind) -> list[dict[str, str]]:
    """The turns that every problem of a kind begins with, the same in all worlds."""
    rng = random.Random(f"real/{kind}/demonstrations")
    if kind == "signs":
        shown = [sign(room, rng.randint(10, 99), style, rng) for room, style in zip(DOORS, STYLES, strict=True)]
    else:
        shown = [word(("prune",), OPERATIONS[2:3], "x24", rng), word(("wend",), OPERATIONS[5:], "x79", rng)]
    return [{"role": "system", "content": SYSTEM[kind]}, *itertools.chain.from_iterable(q.turns() for q in shown)]


def _numbers(rng: random.Random) -> Iterator[int]:
    """Numbers of two digits, none twice: what makes two questions alike is their family, to a search by words too."""
    return iter(rng.sample(range(10, 100), 90))


def _signs(rng: random.Random) -> tuple[Iterator[Question], Iterator[Question]]:
    styles = dict(zip(TRADES, rng.sample(STYLES, len(STYLES)), strict=True))
    numbers = _numbers(rng)
    held_out = {room for rooms in TRADES for room in rng.sample(rooms, HELD_OUT_ROOMS)}

    def questions(wanted: bool) -> Iterator[Question]:
        families = [(room, style) for rooms, style in styles.items() for room in rooms if (room in held_out) is wanted]
        while True:
            for room, style in rng.sample(families, len(families)):
                yield sign(room, next(numbers), style, rng)

    return questions(False), questions(True)


def _words(rng: random.Random) -> tuple[Iterator[Question], Iterator[Question]]:
    numbers = _numbers(rng)
    meaning = dict(zip(WORDS, rng.sample(OPERATIONS, len(OPERATIONS)), strict=True))
    pairs = rng.sample(list(itertools.permutations(WORDS, 2)), HELD_OUT_PAIRS)

    def questions(families: Sequence[tuple[str, ...]]) -> Iterator[Question]:
        while True:
            for family in rng.sample(families, len(families)):
                yield word(family, [meaning[each] for each in family], f"x{next(numbers)}", rng)

    return questions([(each,) for each in WORDS]), questions(pairs)
