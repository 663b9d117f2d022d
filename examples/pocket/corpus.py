"""The pre-training mixture: every skill of the base model, in a new random world for each text.

Invariants:
- No map survives a text: which procedure a family stands for is drawn anew each time, so the base learns to
  use advice and can know no family.
- What a text asks for is decided by one rule, stated where it is drawn. `Text.accept` is that rule as a
  predicate, so the measure of a skill and its training target cannot drift apart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pmd.examples.pocket.drills import recall_labels, recall_notes
from pmd.examples.pocket.reflecting import MODES, abstract_text, reflect_text
from pmd.examples.pocket.solving import MIXED, NOTHING, Mix, solve_text
from pmd.examples.pocket.wording import Text
from pmd.examples.pocket.world import Kind, WorldName

# One source of advice at a time, often among notes on other families: the short texts in which following is
# learnt. Without the others a model learns to copy whatever note it sees.
SINGLE = (
    *[Mix(strategy=1, distract=0.5)] * 3,
    *[Mix(first_rule=1, second_rule=1, distract=0.5)] * 2,
    Mix(first_rule=1, distract=0.5),
    Mix(second_rule=1, distract=0.5),
    Mix(solution=1, distract=0.3),
    Mix(passed=1, distract=0.3),
    Mix(forbid=1, distract=0.3),
)


@dataclass(frozen=True)
class Scope:
    """Which worlds and kinds of problem the texts are about; repeat one to weigh it."""

    worlds: tuple[WorldName, ...] = ("easy", "hard", "hard")
    kinds: tuple[Kind, ...] = ("code", "choice")


EVERYTHING = Scope()
SMALL = Scope(worlds=("easy",), kinds=("code",))


def draw_text(rng: random.Random, scope: Scope = EVERYTHING) -> Text:
    """One text of the pre-training mixture."""
    world, kind = rng.choice(scope.worlds), rng.choice(scope.kinds)
    part = rng.random()
    if part < 0.12:
        return (recall_notes if part < 0.07 else recall_labels)(rng, world)
    if part < 0.26:
        return reflect_text(rng, rng.choice(MODES), kind, world)
    if part < 0.39:
        return abstract_text(rng, rng.choice(("first", "second", "both", "family", "mixed")), world)
    if part < 0.46:
        return solve_text(rng, NOTHING, kind, world)
    text = solve_text(rng, rng.choice(SINGLE) if part < 0.74 else replace(MIXED, slip=0.15), kind, world)
    # Programs are learnt soon; choosing a plan is what takes long. Most texts on programs end with it.
    plan_only = kind == "code" and not text.skip and rng.random() < 0.7
    return replace(text, keep=text.completion.index("\n") + 1) if plan_only else text
