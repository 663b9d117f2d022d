"""Pre-training texts that solve a problem: any mixture of advice, and an answer that obeys its precedence.

Precedence of advice: solution of this very problem, strategy for its family, attempt at it that passed,
behaviors about its symbols (each decides its half), nothing. Lessons and failed attempts forbid a procedure
where the advice leaves a choice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pmd.examples.pocket.wording import (
    Text,
    answer,
    draw_feedback,
    draw_procedure,
    draw_task,
    first_rule,
    follows,
    lesson,
    plan_of,
    render,
    second_rule,
    strategy,
)
from pmd.examples.pocket.world import VOCABULARIES, CodeTask, Family, Kind, Procedure, Task, Vocabulary, WorldName


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
