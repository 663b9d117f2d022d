"""The pocket worlds: procedures, families and problems, all drawn from seeds.

Invariants:
- A *procedure* is an arrangement of four digits followed by a shift of each (mod 10).
- A *family* is two symbols, `zor-mil`. In a world the first symbol decides the arrangement and the
  second the shift, except for the declared share of exceptions. Nothing in a problem's text says which.
- `easy` and `hard` use different symbols, so one base model can know how many procedures each allows
  (24 and 64) without knowing any map.
- The same arguments give the same problems on every machine: only `random.Random` seeded by strings.
- No problem text occurs twice, within a split or across splits.

This module needs the standard library only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["code", "choice"]
WorldName = Literal["easy", "hard"]
Digits = tuple[int, int, int, int]

KINDS: tuple[Kind, ...] = ("code", "choice")
LABELS = ("A", "B", "C", "D")
SHIFTS = (1, 3, 5, 7)

# Word -> source index of each output position. The first six serve the easy world.
ARRANGEMENTS: dict[str, Digits] = {
    "rotate": (1, 2, 3, 0),
    "reverse": (3, 2, 1, 0),
    "halve": (2, 3, 0, 1),
    "pair": (1, 0, 3, 2),
    "flip": (3, 1, 2, 0),
    "cross": (0, 2, 1, 3),
    "keep": (0, 1, 2, 3),
    "rewind": (3, 0, 1, 2),
    "lead": (1, 0, 2, 3),
    "trail": (0, 1, 3, 2),
    "fold": (0, 3, 1, 2),
    "weave": (1, 3, 0, 2),
    "twist": (2, 0, 3, 1),
    "lift": (2, 0, 1, 3),
    "sink": (1, 2, 0, 3),
    "spin": (0, 2, 3, 1),
}


@dataclass(frozen=True)
class Vocabulary:
    """The symbols and arrangements that one world may use."""

    firsts: tuple[str, ...]
    seconds: tuple[str, ...]
    arrangements: tuple[str, ...]

    @property
    def families(self) -> list[Family]:
        """All combinations, in a fixed order."""
        return [Family(first, second) for first in self.firsts for second in self.seconds]

    @property
    def procedures(self) -> list[Procedure]:
        """All procedures a family of this world may stand for: 24 (easy) or 64 (hard)."""
        return [Procedure(name, shift) for name in self.arrangements for shift in SHIFTS]


@dataclass(frozen=True)
class Family:
    """Two symbols, written `first-second`."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}-{self.second}"


@dataclass(frozen=True)
class Procedure:
    """Arrange four digits, then add `shift` to each, mod 10."""

    arrangement: str
    shift: int

    def __str__(self) -> str:
        return f"{self.arrangement} then add {self.shift}"

    @property
    def order(self) -> Digits:
        """Source index of each output position."""
        return ARRANGEMENTS[self.arrangement]

    def arrange(self, digits: Digits) -> Digits:
        """The first half alone."""
        i, j, k, m = self.order
        return digits[i], digits[j], digits[k], digits[m]

    def apply(self, digits: Digits) -> Digits:
        """Both halves."""
        p, q, r, s = self.arrange(digits)
        n = self.shift
        return (p + n) % 10, (q + n) % 10, (r + n) % 10, (s + n) % 10


VOCABULARIES: dict[WorldName, Vocabulary] = {
    "hard": Vocabulary(
        firsts=("zor", "kel", "vim", "tav", "bix", "nog", "dup", "fes"),
        seconds=("mil", "rak", "jun", "pol", "sed", "gax", "wib", "hon"),
        arrangements=tuple(ARRANGEMENTS),
    ),
    "easy": Vocabulary(
        firsts=("lum", "gop", "ket", "yan", "ruz", "wex", "bal", "nid"),
        seconds=("tob", "cim", "vor", "jep", "hul", "maz", "quf", "sil"),
        arrangements=tuple(ARRANGEMENTS)[:6],
    ),
}


@dataclass(frozen=True)
class Requirement:
    """What a `code` problem asks beyond its family: `phrase` in words, `expression` in Python over `a`."""

    phrase: str
    expression: str
    lossy: bool = False
    """True where many procedures give the same output, so that chance agreement is common."""

    def apply(self, digits: Digits) -> Any:
        """The value of `expression` for `a = list(digits)`; JSON-serialisable."""
        return _EVALUATE[self.expression](list(digits))


def _requirements() -> tuple[Requirement, ...]:
    fixed = [
        ("append the sum", "a + [sum(a)]"),
        ("append the largest", "a + [max(a)]"),
        ("append the smallest", "a + [min(a)]"),
        ("append the first", "a + [a[0]]"),
        ("append the last", "a + [a[3]]"),
        ("put the sum in front", "[sum(a)] + a"),
        ("put the largest in front", "[max(a)] + a"),
        ("put the smallest in front", "[min(a)] + a"),
        ("drop the first", "a[1:]"),
        ("drop the last", "a[:3]"),
        ("double the first", "[a[0] * 2] + a[1:]"),
        ("double the last", "a[:3] + [a[3] * 2]"),
        ("square each", "[x * x for x in a]"),
        ("negate each", "[-x for x in a]"),
        ("repeat it", "a + a"),
    ]
    made = [Requirement(phrase, expression) for phrase, expression in fixed]
    for k in range(2, 10):
        made.append(Requirement(f"multiply each by {k}", f"[x * {k} for x in a]"))
        made.append(Requirement(f"subtract each from {k}", f"[{k} - x for x in a]"))
        made.append(Requirement(f"append {k}", f"a + [{k}]"))
        made.append(Requirement(f"put {k} in front", f"[{k}] + a"))
    lossy = [("return the sum", "sum(a)"), ("return the largest", "max(a)"), ("return the smallest", "min(a)")]
    return (*made, *(Requirement(phrase, expression, lossy=True) for phrase, expression in lossy))


REQUIREMENTS = _requirements()

# One source of truth: the reference value of a requirement is its own expression, a literal of this file.
_EVALUATE: dict[str, Callable[[list[int]], Any]] = {
    r.expression: eval(f"lambda a: {r.expression}")  # noqa: S307
    for r in REQUIREMENTS
}


def plan_line(family: Family, plan: Procedure) -> str:
    """The first line of every answer.

    It names the family, so that the words after it repeat a note about that family: following a strategy is
    then a plain continuation, which a model this small does reliably.
    """
    return f"Plan {family}: {plan}."


@dataclass(frozen=True)
class CodeTask:
    """Write `solve(a)`: the family's procedure, then the requirement."""

    family: Family
    requirement: Requirement

    @property
    def text(self) -> str:
        """The user turn."""
        return f"Write solve(a): apply {self.family}, then {self.requirement.phrase}."

    def completion(self, plan: Procedure) -> str:
        """The model's answer when it states `plan` and follows it."""
        order = ", ".join(map(str, plan.order))
        return (
            f"{plan_line(self.family, plan)}\n```python\ndef solve(a):\n"
            f"    a = [(a[i] + {plan.shift}) % 10 for i in ({order})]\n"
            f"    return {self.requirement.expression}\n```"
        )

    def output(self, procedure: Procedure, digits: Digits) -> Any:
        """What a program that follows `procedure` returns for `digits`."""
        return self.requirement.apply(procedure.apply(digits))


@dataclass(frozen=True)
class ChoiceTask:
    """Pick the option that the family's procedure makes of `digits`."""

    family: Family
    digits: Digits
    options: tuple[Digits, Digits, Digits, Digits]

    @property
    def text(self) -> str:
        """The user turn."""
        options = ", ".join(f"{_join(o)} {label}" for label, o in zip(LABELS, self.options, strict=True))
        return f"Apply {self.family} to {_join(self.digits)}: {options}."

    def label(self, procedure: Procedure) -> str | None:
        """The label of the option that `procedure` yields, or None."""
        outcome = procedure.apply(self.digits)
        return LABELS[self.options.index(outcome)] if outcome in self.options else None

    def label_by_end(self, procedure: Procedure) -> str | None:
        """The label of the option that ends as the outcome of `procedure` does, or None.

        What a reader picks who looks an outcome up by its last digit, also where no option is right in full.
        """
        ends = [option[-1] for option in self.options]
        end = procedure.apply(self.digits)[-1]
        return LABELS[ends.index(end)] if end in ends else None

    def completion(self, plan: Procedure, label: str) -> str:
        """The model's answer when it states `plan` and picks `label`."""
        # The input is restated so that both halves work on what was just written, and the label follows the
        # outcome here as it does among the options.
        work = " > ".join(_join(d) for d in (self.digits, plan.arrange(self.digits), plan.apply(self.digits)))
        return f"{plan_line(self.family, plan)}\nWork: {work} {label}.\n<answer>{label}</answer>"


Task = CodeTask | ChoiceTask


def draw_digits(rng: random.Random) -> Digits:
    """Four distinct digits: distinct, so that two arrangements never agree by accident."""
    p, q, r, s = rng.sample(range(10), 4)
    return p, q, r, s


def draw_choice(rng: random.Random, vocabulary: Vocabulary, family: Family, truth: Procedure) -> ChoiceTask:
    """A `choice` problem: the right outcome and three that share exactly one half with it, shuffled.

    No two options end alike, so the label of an outcome is found by its last digit.
    """
    digits = draw_digits(rng)
    others = [p for p in vocabulary.procedures if (p.arrangement == truth.arrangement) != (p.shift == truth.shift)]
    outcomes = [procedure.apply(digits) for procedure in (*rng.sample(others, len(others)), truth)]
    by_end = {outcome[-1]: outcome for outcome in outcomes}
    right = by_end.pop(outcomes[-1][-1])
    wrong = rng.sample(sorted(by_end.values()), len(LABELS) - 1)
    first, second, third, fourth = rng.sample([right, *wrong], len(LABELS))
    return ChoiceTask(family, digits, (first, second, third, fourth))


@dataclass(frozen=True)
class World:
    """The hidden truth of one world: what each family does, and which combinations are held out."""

    vocabulary: Vocabulary
    procedures: dict[Family, Procedure]
    unseen: tuple[Family, ...]
    exceptions: frozenset[Family]

    @property
    def seen(self) -> tuple[Family, ...]:
        """Families that occur in training."""
        return tuple(family for family in self.vocabulary.families if family not in self.unseen)


def draw_world(world: WorldName, world_seed: int, exceptions: float = 0.0) -> World:
    """Draw the maps, the held-out combinations and the exceptions of one world.

    Two combinations of each symbol are held out (16 of 64), so every symbol occurs in training six times.
    `exceptions` is the share of all families, in [0, 1], whose procedure is drawn independently of both
    maps; it changes nothing else of the world.
    """
    if world not in VOCABULARIES:
        raise ValueError(f"unknown world {world!r}: use 'easy' or 'hard'")
    if not 0.0 <= exceptions <= 1.0:
        raise ValueError(f"exceptions is a share of families, got {exceptions}: give a number between 0 and 1")
    vocabulary = VOCABULARIES[world]
    rng = random.Random(f"pocket/{world}/{world_seed}")
    arrangement = {first: rng.choice(vocabulary.arrangements) for first in vocabulary.firsts}
    shift = {second: rng.choice(SHIFTS) for second in vocabulary.seconds}
    procedures = {f: Procedure(arrangement[f.first], shift[f.second]) for f in vocabulary.families}

    seconds = rng.sample(vocabulary.seconds, len(vocabulary.seconds))
    near, far = rng.sample(range(len(seconds)), 2)
    unseen = tuple(
        Family(first, seconds[(i + offset) % len(seconds)])
        for i, first in enumerate(vocabulary.firsts)
        for offset in (near, far)
    )

    broken = rng.sample(vocabulary.families, round(exceptions * len(procedures)))
    for family in broken:
        procedures[family] = rng.choice([p for p in vocabulary.procedures if p != procedures[family]])
    return World(vocabulary, procedures, unseen, frozenset(broken))


def problem_sets(
    kind: Kind,
    world: WorldName,
    world_seed: int,
    exceptions: float = 0.0,
    train: int = 256,
    test: int = 64,
    unseen: int = 64,
) -> dict[str, list[dict[str, Any]]]:
    """The three problem sets of one world, as problem records.

    Returns `{"train": [...], "test": [...], "unseen": [...]}` with the given numbers of records
    `{"id", "messages", "verifier", "domain", "split"}`. `test` holds new problems of families that occur in
    training, `unseen` only families whose combination never does; both cover their families evenly.
    Both kinds of one world share its maps and its split of families.

    Raises ValueError for an unknown kind or world, a share outside [0, 1], or more problems than there are
    distinct texts (48 families of train and test together, 16 of unseen, times 50 requirements for `code`).
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: use 'code' or 'choice'")
    drawn = draw_world(world, world_seed, exceptions)
    domain = f"pocket-{kind}-{world}"
    rng = random.Random(f"pocket/problems/{kind}/{world}/{world_seed}/{exceptions}")
    known = _tasks(kind, drawn, drawn.seen, rng)
    new = _tasks(kind, drawn, drawn.unseen, rng)
    wanted = (("train", train, known), ("test", test, known), ("unseen", unseen, new))
    sets: dict[str, list[dict[str, Any]]] = {}
    for split, size, tasks in wanted:
        records = []
        for number in range(size):
            task = next(tasks, None)
            if task is None:
                raise ValueError(
                    f"{domain}: no more distinct problems after {number} of {size} in {split!r}: ask for fewer"
                )
            records.append(
                {
                    "id": f"{domain}-w{world_seed}-{split}-{number:03d}-{task.family}",
                    "messages": [{"role": "user", "content": task.text}],
                    "verifier": _verifier(task, drawn.procedures[task.family], rng),
                    "domain": domain,
                    "split": split,
                }
            )
        sets[split] = records
    return sets


def _tasks(kind: Kind, world: World, families: tuple[Family, ...], rng: random.Random) -> Iterator[Task]:
    """Distinct tasks, one a family and round, families reshuffled each round."""
    # A shuffle of all requirements a family keeps the share of lossy ones at 3 in 50 for any number drawn.
    requirements = {family: rng.sample(REQUIREMENTS, len(REQUIREMENTS)) for family in families}
    used: dict[Family, set[Digits]] = {family: set() for family in families}
    for turn in range(len(REQUIREMENTS)):
        for family in rng.sample(families, len(families)):
            if kind == "code":
                yield CodeTask(family, requirements[family][turn])
                continue
            task = draw_choice(rng, world.vocabulary, family, world.procedures[family])
            while task.digits in used[family]:
                task = draw_choice(rng, world.vocabulary, family, world.procedures[family])
            used[family].add(task.digits)
            yield task


def _verifier(task: Task, truth: Procedure, rng: random.Random) -> dict[str, Any]:
    """The verifier spec: four hidden tests, or the label of the right option."""
    if isinstance(task, ChoiceTask):
        return {"kind": "choice", "answer": task.label(truth), "labels": list(LABELS)}
    inputs = [draw_digits(rng) for _ in range(4)]
    tests = [{"input": json.dumps(digits), "output": json.dumps(task.output(truth, digits))} for digits in inputs]
    return {"kind": "code", "fn_name": "solve", "tests": tests, "feedback": {"expected": True}}


def _join(digits: Digits) -> str:
    return "".join(map(str, digits))
