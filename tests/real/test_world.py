"""The real benchmark's problems: conventions that no question gives away, and splits that share no question."""

from __future__ import annotations

import ast
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pmd.examples.real.make_problems import FOLDER, WORLDS, lines
from pmd.examples.real.world import (
    DOORS,
    KINDS,
    OPERATIONS,
    SIZES,
    STYLES,
    TRADES,
    Kind,
    demonstrations,
    expression,
    problem_sets,
)
from pmd.gateway.recipes.files import load_recipe
from pmd.services.common.wire import Problem
from pmd.services.memory.index.embed import HashEmbedder
from pmd.services.verifier.kinds import exact

WORLD = [(kind, seed) for kind in KINDS for seed in range(WORLDS)]


def family(record: dict[str, object]) -> str:
    return str(record["id"]).split("-", 4)[4]


@pytest.mark.parametrize(("kind", "seed"), WORLD)
def test_the_committed_files_are_what_the_script_makes(kind: Kind, seed: int) -> None:
    committed = (FOLDER / f"{kind}-{seed}.jsonl").read_text(encoding="utf-8")
    assert committed == lines(kind, seed), "run `python -m pmd.examples.real.make_problems`"


@pytest.mark.parametrize(("kind", "seed"), WORLD)
def test_splits_share_no_question_and_unseen_shares_no_family(kind: Kind, seed: int) -> None:
    sets = problem_sets(kind, seed)
    asked = [record["messages"][-1]["content"] for records in sets.values() for record in records]
    assert len(set(asked)) == len(asked) == sum(SIZES.values())
    known, new = ({family(r) for r in sets[split]} for split in ("train", "unseen"))
    assert {family(r) for r in sets["test"]} <= known
    assert not known & new
    for records in sets.values():
        counts = Counter(map(family, records)).values()
        assert max(counts) - min(counts) <= 1, "families are covered evenly"


@pytest.mark.parametrize(("kind", "seed"), WORLD)
def test_the_answer_is_one_of_the_forms_in_the_question_and_nothing_says_which(kind: Kind, seed: int) -> None:
    places = Counter()
    for record in problem_sets(kind, seed)["train"]:
        problem = Problem.model_validate(record)
        answer = problem.verifier["answer"]
        forms = (
            problem.question()
            .partition(": " if kind == "signs" else " is ")[2]
            .rstrip("?")
            .replace(" or ", ", ")
            .split(", ")
        )
        assert len(set(forms)) == 3
        places[forms.index(answer)] += 1
        assert problem.messages[:-1] == [*map(type(problem.messages[0]).model_validate, demonstrations(kind))]
    assert min(places.values()) >= 5, "no place among the forms is right much more often than another"


@pytest.mark.parametrize("seed", range(WORLDS))
def test_a_trade_has_one_style_and_rooms_that_are_held_out_share_it(seed: int) -> None:
    sets = problem_sets("signs", seed)
    styles: dict[int, set[str]] = {}
    for record in (*sets["train"], *sets["unseen"]):
        room = family(record).replace("-", " ")
        number = "".join(filter(str.isdigit, record["messages"][-1]["content"].partition(":")[0]))
        trade = next(i for i, rooms in enumerate(TRADES) if room in rooms)
        styles.setdefault(trade, set()).add(record["verifier"]["answer"].replace(number, "{n}"))
    assert sorted(map(tuple, styles.values())) == sorted((style,) for style in STYLES)


@pytest.mark.parametrize("seed", range(WORLDS))
def test_pairs_that_are_held_out_are_made_of_words_that_are_trained_on(seed: int) -> None:
    sets = problem_sets("words", seed)
    singles = {family(r) for r in sets["train"]}
    assert all("-" in family(r) for r in sets["unseen"])
    assert {part for r in sets["unseen"] for part in family(r).split("-")} <= singles


@pytest.mark.parametrize(("kind", "seed"), WORLD)
def test_what_asks_the_like_is_of_the_same_family(kind: Kind, seed: int) -> None:
    """The recipe shows attempts at the nearest problems above its similarity: they must know the answer's form."""
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "real.yaml")
    turns, least = recipe["context"]["turns"], recipe["retrieval"]["min_similarity"]
    records = problem_sets(kind, seed)["train"]
    rows = HashEmbedder().embed([record["messages"][-1]["content"] for record in records])
    hits = []
    for number, likeness in enumerate(rows @ rows.T):
        nearest = [i for i in np.argsort(-likeness) if i != number and likeness[i] >= least]
        assert len(nearest) >= turns - 1
        hits += [family(records[i]) == family(records[number]) for i in nearest[:turns]]
    assert sum(hits) / len(hits) > 0.9


def test_worlds_have_other_rules() -> None:
    answers = [{family(r): r["verifier"]["answer"] for r in problem_sets("words", seed)["train"]} for seed in (0, 1)]
    assert any(answers[0][word].count("[") != answers[1][word].count("[") for word in answers[0])


def test_the_first_turns_show_every_style_once() -> None:
    """Else the styles that they show are the ones that are guessed."""
    turns = demonstrations("signs")
    shown = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    assert len(shown) == len(DOORS) == len(STYLES)
    assert [re.sub(r"\d+", "{n}", text) for text in shown] == list(STYLES)


def test_an_expression_does_its_operations_in_order() -> None:
    rng = random.Random(0)
    for _ in range(50):
        pair = rng.sample(OPERATIONS, 2)
        value = [3, 1, 2, 5]
        for operation in pair:
            value = eval(operation.format(x="v"), {"v": value})  # noqa: S307 -- our own text
        text = expression(pair, "v")
        ast.parse(text, mode="eval")
        assert eval(text, {"v": [3, 1, 2, 5]}) == value  # noqa: S307


def test_the_verdict_is_strict() -> None:
    """What follows an answer is no part of it: a sloppy verdict would teach sloppy tails."""
    problem = Problem.model_validate(problem_sets("signs", 0)["train"][0])
    spec = exact.Spec.model_validate(problem.verifier)

    def outcome(text: str) -> str:
        return str(exact.verify(spec, text, None).outcome)  # type: ignore[arg-type] -- this kind asks nobody

    right = problem.verifier["answer"]
    assert outcome(f"{right}\n") == "passed"
    assert outcome(right + "\nSign for gate 1") == "failed"
    assert outcome(problem.question()) == "failed"


def test_the_world_needs_the_standard_library_only() -> None:
    code = "import sys, pmd.examples.real.world; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
