"""Pre-training texts: every skill of the base model, in a new random world for each text.

Invariants:
- No map survives a text: which procedure a family stands for is drawn anew each time, so the base learns to
  use advice and can know no family.
- User turns are rendered through `prompts/*.jinja`, the files that teacher contexts, reflection and
  abstraction use in a run; the chat template is applied where the text is tokenised.
- What a text asks for is decided by one rule, stated where it is drawn. `Text.accept` is that rule as a
  predicate, so the measure of a skill and its training target cannot drift apart.

Precedence of advice: solution of this very problem, strategy for its family, attempt at it that passed,
behaviors about its symbols (each decides its half), nothing. Lessons and failed attempts forbid a procedure
where the advice leaves a choice.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jinja2

from examples.pocket.world import (
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
    WorldName,
    draw_choice,
    draw_digits,
    plan_line,
)

PROMPTS = Path(__file__).parent / "prompts"
Mode = Literal["contrast", "successes", "failures"]
MODES: tuple[Mode, ...] = ("contrast", "successes", "failures")
Shape = Literal["first", "second", "both", "family", "mixed"]
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


@dataclass
class Advice:
    """What a teacher prompt shows beside the problem: the variables of `teacher.jinja`."""

    strategies: list[str] = field(default_factory=list)
    lessons: list[str] = field(default_factory=list)
    behaviors: list[str] = field(default_factory=list)
    experiences: list[dict[str, Any]] = field(default_factory=list)
    solution: str | None = None
    feedback: str | None = None

    def render(self, problem: str) -> str:
        """The user turn of the teacher."""
        return render("teacher", problem=problem, **vars(self))


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
    """A completion that states `plan` and follows it; a random label where no option fits."""
    if isinstance(task, CodeTask):
        return task.completion(plan)
    return task.completion(plan, task.label(plan) or rng.choice(LABELS))


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


@dataclass(frozen=True)
class Mix:
    """How often each kind of advice is shown; all are probabilities."""

    strategy: float = 0.0
    solution: float = 0.0
    passed: float = 0.0
    first_rule: float = 0.0
    second_rule: float = 0.0
    forbid: float = 0.0
    feedback: float = 0.0
    distract: float = 0.0
    slip: float = 0.0
    """The completion starts with a plan that is not the advised one (no loss on it) and carries that one out."""
    truthful: float = 0.8
    """A note states the truth. Low on purpose: precedence decides what is followed, not agreement."""


NOTHING = Mix()
MIXED = Mix(
    strategy=0.45, solution=0.3, passed=0.15, first_rule=0.4, second_rule=0.4, forbid=0.3, feedback=0.2, distract=0.15
)


def solve_text(rng: random.Random, mix: Mix, kind: Kind, world: WorldName) -> Text:
    """A problem, any mixture of advice, and an answer that obeys its precedence."""
    vocabulary = VOCABULARIES[world]
    truth = draw_procedure(rng, vocabulary)
    task = draw_task(rng, kind, vocabulary, truth)
    advice, left = _advise(rng, mix, task, vocabulary, truth)
    if rng.random() < mix.forbid:
        left = _forbid(rng, advice, task, vocabulary, left)
    if rng.random() < mix.distract:
        _distract(rng, advice, vocabulary, task.family)
    for notes in (advice.strategies, advice.lessons, advice.behaviors, advice.experiences):
        rng.shuffle(notes)

    prompt = advice.render(task.text)
    chosen = rng.choice(left)
    if rng.random() < mix.slip:
        other = draw_procedure(rng, vocabulary)
        if rng.random() < 0.5:
            # Only the arrangement slips; the shift still obeys the advice.
            stated, forced = Procedure(other.arrangement, chosen.shift), f"Plan {task.family}: {other.arrangement}"
        else:
            stated, forced = other, f"Plan {task.family}: {other}"
        return Text(prompt, answer(rng, task, stated), partial(follows, task, stated), skip=len(forced))
    if advice.solution:
        return Text(prompt, advice.solution, advice.solution.__eq__)
    return Text(prompt, answer(rng, task, chosen), partial(_obeys, task, frozenset(left)))


def _advise(
    rng: random.Random, mix: Mix, task: Task, vocabulary: Vocabulary, truth: Procedure
) -> tuple[Advice, list[Procedure]]:
    """Draw what the notes claim, in rising order of precedence, and the procedures that they leave open."""
    advice = Advice()
    arrangement: str | None = None
    shift: int | None = None
    plan: Procedure | None = None

    def claim() -> Procedure:
        return truth if rng.random() < mix.truthful else draw_procedure(rng, vocabulary)

    if rng.random() < mix.first_rule:
        arrangement = claim().arrangement
        advice.behaviors.append(first_rule(task.family.first, arrangement))
    if rng.random() < mix.second_rule:
        shift = claim().shift
        advice.behaviors.append(second_rule(task.family.second, shift))
    if rng.random() < mix.passed:
        plan = claim()
        advice.experiences.append(_experience(rng, task, plan, passed=True))
    if rng.random() < mix.strategy:
        plan = claim()
        advice.strategies += [strategy(task.family, plan)] * (2 if rng.random() < 0.1 else 1)
    if rng.random() < mix.solution:
        plan = claim()
        # A verified solution of a choice problem has the right label even where its plan is wrong.
        advice.solution = (
            answer(rng, task, plan) if isinstance(task, CodeTask) else task.completion(plan, task.label(truth) or "A")
        )
    if rng.random() < mix.feedback:
        advice.feedback = draw_feedback(rng, task) or None
    if plan:
        return advice, [plan]
    return advice, [
        p for p in vocabulary.procedures if arrangement in (None, p.arrangement) and shift in (None, p.shift)
    ]


def _forbid(
    rng: random.Random, advice: Advice, task: Task, vocabulary: Vocabulary, left: list[Procedure]
) -> list[Procedure]:
    """Add lessons and failed attempts; return what they leave open.

    Conflicts are settled before a prompt is rendered: what the advice decides is never forbidden too.
    """
    keep = rng.choice(left)
    pool = left if len(left) > 1 and rng.random() < 0.6 else vocabulary.procedures
    pool = [p for p in pool if p != keep]
    wrong = rng.sample(pool, min(len(pool), rng.choice((1, 1, 2, 3))))
    for procedure in wrong:
        if rng.random() < 0.8:
            advice.lessons.append(lesson(task.family, procedure))
        else:
            advice.experiences.append(_experience(rng, task, procedure, passed=False))
    return [p for p in left if p not in wrong]


def _obeys(task: Task, allowed: frozenset[Procedure], completion: str) -> bool:
    plan = plan_of(completion)
    return plan in allowed and plan is not None and follows(task, plan, completion)


def _experience(rng: random.Random, task: Task, plan: Procedure, *, passed: bool) -> dict[str, Any]:
    # The memory service shows the head of an attempt, as a rule its plan line; at times the whole.
    text = answer(rng, task, plan)
    text = text if rng.random() < 0.05 else text.partition("\n")[0]
    return {"text": text, "passed": passed, "feedback": "" if passed else draw_feedback(rng, task)}


def _distract(rng: random.Random, advice: Advice, vocabulary: Vocabulary, family: Family) -> None:
    """Add notes on other families and other symbols; a family may share one symbol with this one."""
    others = [f for f in vocabulary.families if f != family]
    if rng.random() < 0.4:
        for other in rng.sample(others, rng.choice((1, 1, 2))):
            advice.strategies.append(strategy(other, draw_procedure(rng, vocabulary)))
    if rng.random() < 0.25:
        for other in rng.sample(others, rng.choice((1, 1, 2))):
            advice.lessons.append(lesson(other, draw_procedure(rng, vocabulary)))
    if rng.random() < 0.7:
        for other in rng.sample(others, rng.choice((1, 2, 3))):
            rule = draw_procedure(rng, vocabulary)
            if other.first != family.first and rng.random() < 0.5:
                advice.behaviors.append(first_rule(other.first, rule.arrangement))
            elif other.second != family.second:
                advice.behaviors.append(second_rule(other.second, rule.shift))


def reflect_text(rng: random.Random, mode: Mode, kind: Kind, world: WorldName) -> Text:
    """Attempts at one problem, its old insight, and the insight that should replace it.

    The rule: of successes that disagree, the one that the old strategy supports counts, else the last. With a
    success its procedure is the strategy; without, old strategies stay unless a failure used one. Lessons
    are what failed now (newer ones replace old ones), never what a strategy says.
    """
    vocabulary = VOCABULARIES[world]
    truth = draw_procedure(rng, vocabulary)
    task = draw_task(rng, kind, vocabulary, truth)
    family = task.family

    def draw(*likely: Procedure) -> Procedure:
        return rng.choice(likely) if likely and rng.random() < 0.6 else draw_procedure(rng, vocabulary)

    old = _distinct([draw(truth) for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 1, 1, 2)))])
    old_lessons = [p for p in _distinct([draw() for _ in range(rng.choice((0, 0, 1, 2)))]) if p not in old]
    passed: list[Procedure] = []
    failed: list[Procedure] = []
    if mode != "failures":
        passed = [truth if rng.random() < 0.8 else draw(*old) for _ in range(rng.choice((1, 2)))]
    if mode != "successes":
        failed = [draw(*(old or [truth])) if rng.random() < 0.5 else draw() for _ in range(rng.choice((1, 2, 2)))]
    broken = [rng.random() < 0.04 for _ in failed]

    if passed:
        supported = [p for p in passed if p in old]
        strategies = [(supported or passed)[-1]]
    else:
        strategies = [p for p in old if p not in [f for f, b in zip(failed, broken, strict=True) if not b]]
    told = [p for p, b in zip(failed, broken, strict=True) if not b]
    lessons = [p for p in _distinct(told) if p not in strategies]

    prompt = render(
        "reflect",
        problem=task.text,
        mode=mode,
        successes=[{"text": plan_line(family, p)} for p in passed],
        failures=[
            {
                "text": _broken_head(rng) if b else plan_line(family, p),
                "feedback": draw_feedback(rng, task) if rng.random() < 0.5 else "",
            }
            for p, b in zip(failed, broken, strict=True)
        ],
        strategies=[strategy(family, p) for p in old],
        lessons=[lesson(family, p) for p in old_lessons],
    )
    lines = [f"Strategy: {strategy(family, p)}" for p in strategies] + [f"Lesson: {lesson(family, p)}" for p in lessons]
    completion = "\n".join(lines) or "None"
    return Text(prompt, completion, completion.__eq__)


def _distinct(procedures: list[Procedure]) -> list[Procedure]:
    return list(dict.fromkeys(procedures))


def _broken_head(rng: random.Random) -> str:
    """The head of an attempt that states no plan: nothing can be learnt from it."""
    return rng.choice(("```python", "def solve(a):", "Plan", "Work:", "return a"))


def abstract_text(rng: random.Random, shape: Shape, world: WorldName) -> Text:
    """The insights of one cluster, and the rules that they share.

    A symbol earns a rule when at least three notes and half of the cluster are about it, and at least 60 % of
    those agree on its half. At most two rules are written, the one with most agreeing notes first.
    """
    vocabulary = VOCABULARIES[world]
    size = rng.choice((3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 12))
    family = draw_family(rng, vocabulary)
    arrangement = {symbol: rng.choice(vocabulary.arrangements) for symbol in vocabulary.firsts}
    shift = {symbol: rng.choice(SHIFTS) for symbol in vocabulary.seconds}
    right = rng.choice((1.0, 1.0, rng.uniform(0.5, 1.0), rng.uniform(0.0, 0.5)))
    notes: list[tuple[Family, Procedure]] = []
    for _ in range(size):
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
    prompt = render("abstract", insights=[{"strategies": [strategy(*note)]} for note in notes])
    completion = "\n".join(f"Behavior: {rule}" for rule in shared_rules(notes)) or "None"
    return Text(prompt, completion, completion.__eq__)


def shared_rules(notes: list[tuple[Family, Procedure]], least: int = 3, purity: float = 0.6) -> list[str]:
    """The at most two rules that `notes` support, best supported first."""
    firsts: dict[str, Counter[str]] = {}
    seconds: dict[str, Counter[int]] = {}
    for family, procedure in notes:
        firsts.setdefault(family.first, Counter())[procedure.arrangement] += 1
        seconds.setdefault(family.second, Counter())[procedure.shift] += 1
    rules: list[tuple[int, str]] = []

    def weigh(about: int, agreeing: int, rule: str) -> None:
        # Half of the cluster: what only a corner of it shares is not what the cluster is about.
        if about >= max(least, len(notes) / 2) and agreeing >= purity * about:
            rules.append((agreeing, rule))

    for symbol, words in firsts.items():
        word, agreeing = words.most_common(1)[0]
        weigh(words.total(), agreeing, first_rule(symbol, word))
    for symbol, amounts in seconds.items():
        amount, agreeing = amounts.most_common(1)[0]
        weigh(amounts.total(), agreeing, second_rule(symbol, amount))
    # The sort is stable: ties keep first symbols before second ones and the order of appearance.
    return [rule for _, rule in sorted(rules, key=lambda r: -r[0])[:2]]


# One source of advice at a time, often among notes on other families: the short texts in which following is
# learnt. Without the others a model learns to copy whatever note it sees.
SINGLE = (
    Mix(strategy=1, distract=0.15),
    Mix(solution=1, distract=0.1),
    Mix(passed=1, distract=0.1),
    Mix(first_rule=1, second_rule=1, distract=0.15),
    Mix(first_rule=1, distract=0.15),
    Mix(second_rule=1, distract=0.15),
    Mix(forbid=1, distract=0.1),
)


@dataclass(frozen=True)
class Scope:
    """Which worlds and kinds of problem the texts are about; repeat one to weigh it."""

    worlds: tuple[WorldName, ...] = ("easy", "hard", "hard")
    kinds: tuple[Kind, ...] = ("code", "code", "choice")


EVERYTHING = Scope()
SMALL = Scope(worlds=("easy",), kinds=("code",))


def draw_text(rng: random.Random, scope: Scope = EVERYTHING) -> Text:
    """One text of the pre-training mixture."""
    world, kind = rng.choice(scope.worlds), rng.choice(scope.kinds)
    part = rng.random()
    if part < 0.10:
        return solve_text(rng, NOTHING, kind, world)
    if part < 0.30:
        return solve_text(rng, rng.choice(SINGLE), kind, world)
    if part < 0.65:
        return solve_text(rng, replace(MIXED, slip=0.15), kind, world)
    if part < 0.82:
        return reflect_text(rng, rng.choice(MODES), kind, world)
    return abstract_text(rng, rng.choice(("first", "second", "first", "second", "both", "family", "mixed")), world)
