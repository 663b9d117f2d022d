"""Pre-training texts that drill looking up and nothing else: repeat the asked ones of some notes or options.

In the other texts one token in twenty depends on finding the right line; here most do. Without drills the
heads that find it are slow to come, above all for labels and numbers.
"""

from __future__ import annotations

import random

from pmd.examples.pocket.wording import Text, draw_family, draw_procedure, strategy
from pmd.examples.pocket.world import LABELS, VOCABULARIES, WorldName, draw_choice, plan_line

ASKED = 3


def recall_notes(rng: random.Random, world: WorldName) -> Text:
    """Strategies for different families; the plans of three of them, in the order asked."""
    vocabulary = VOCABULARIES[world]
    families = rng.sample(vocabulary.families, rng.choice((3, 4, 5, 6, 8)))
    plans = {family: draw_procedure(rng, vocabulary) for family in families}
    asked = rng.sample(families, ASKED)
    lines = [f"Strategy: {strategy(family, plan)}" for family, plan in plans.items()]
    prompt = "\n".join([*lines, f"Recall {', '.join(map(str, asked))}."])
    completion = "\n".join(plan_line(family, plans[family]) for family in asked)
    return Text(prompt, completion, completion.__eq__)


def recall_labels(rng: random.Random, world: WorldName) -> Text:
    """A `choice` problem; three of its options with their labels, in the order asked."""
    vocabulary = VOCABULARIES[world]
    task = draw_choice(rng, vocabulary, draw_family(rng, vocabulary), draw_procedure(rng, vocabulary))
    asked = rng.sample(range(len(LABELS)), ASKED)
    options = ["".join(map(str, task.options[i])) for i in asked]
    completion = ", ".join(f"{option} {LABELS[i]}" for option, i in zip(options, asked, strict=True)) + "."
    return Text(f"{task.text}\nRecall {', '.join(options)}.", completion, completion.__eq__)
