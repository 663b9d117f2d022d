"""The small pure rules: evidence, contradiction, leaks, clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmd.services.common.wire import Message, Problem
from pmd.services.memory.evidence.beliefs import BELIEVED
from pmd.services.memory.evidence.credibility import (
    STRATEGY_PRIOR,
    Attempt,
    Tally,
    approaches,
    behavior_prior,
    borne_out,
    contradicts,
    credibility,
    record,
    support,
)
from pmd.services.memory.evidence.terms import excerpt, terms
from pmd.services.memory.index.embed import HashEmbedder
from pmd.services.memory.leak.guard import leak
from pmd.services.memory.write.cluster import Groups, term_clusters
from tests.memory.world import code_problem

PLANS = ["Plan: rotate then add 3.", "Plan: reverse then add 3.", "Plan: rotate then add 1."]


def attempts(*passed: bool) -> list[Attempt]:
    return [Attempt(f"r{n}", n, PLANS[0], ok) for n, ok in enumerate(passed)]


@given(st.text(max_size=300), st.integers(16, 80))
def test_an_excerpt_is_a_head_and_never_too_long(text: str, chars: int) -> None:
    head = excerpt(text, chars)
    assert len(head) <= chars
    assert head in text or "<think>" in text


def test_an_excerpt_ends_at_a_line_and_hides_thinking() -> None:
    assert excerpt("<think>secret\n</think>Plan: a\nb = 1\nc = 2", 14) == "Plan: a\nb = 1"
    assert excerpt("Plan: a\n```python\nb = 1\n```", 60) == "Plan: a"
    assert excerpt("Plan: a\n<answer>B</answer>", 60) == "Plan: a"


def test_a_record_counts_only_attempts_that_follow_the_note() -> None:
    seen = [Attempt("a", 1, PLANS[0], True), Attempt("b", 1, PLANS[1], False), Attempt("c", 1, PLANS[2], False)]
    assert record("zor-mil: rotate then add 3.", seen) == Tally(1, 1)
    assert record("zor-mil: reverse then add 3.", seen) == Tally(0, 1)


def test_a_note_must_be_borne_out_by_an_attempt_with_its_outcome() -> None:
    seen = [Attempt("a", 1, PLANS[0], True), Attempt("b", 1, PLANS[1], False)]
    assert borne_out("zor-mil: rotate then add 3.", seen, passed=True)
    assert not borne_out("zor-mil: reverse then add 3.", seen, passed=True), "that attempt failed"
    assert borne_out("zor-mil: not reverse then add 3.", seen, passed=False)
    assert not borne_out("zor-mil: rotate then add 1.", [*seen, Attempt("c", 1, PLANS[2], False)], passed=True)
    assert borne_out("Work from the back.", seen, passed=True), "other words can't be checked"


def test_a_lucky_hit_is_believed_until_attempts_refute_it() -> None:
    beliefs = [credibility(STRATEGY_PRIOR, Tally(1, n)) for n in (1, 3, 6)]
    assert beliefs == sorted(beliefs, reverse=True)
    assert beliefs[0] > BELIEVED > beliefs[-1]


def test_notes_are_credited_with_what_goes_beyond_chance() -> None:
    """Of four options a wrong approach picks the right one in a quarter of the cases."""
    lucky, right = Tally(2, 8), Tally(8, 8)
    assert credibility(STRATEGY_PRIOR, lucky) >= BELIEVED > credibility(STRATEGY_PRIOR, lucky, base_pass_rate=0.25)
    assert credibility(STRATEGY_PRIOR, right, base_pass_rate=0.25) == credibility(STRATEGY_PRIOR, right)
    assert credibility(STRATEGY_PRIOR, Tally(), base_pass_rate=0.6) > BELIEVED, "what nobody tried is not refuted"


def test_an_exception_outweighs_a_rule_after_a_few_failures_of_the_rule() -> None:
    rule = behavior_prior(support=20, members=22)
    own = credibility(STRATEGY_PRIOR, Tally(1, 1))
    assert credibility(rule, Tally(0, 0)) > own > credibility(rule, Tally(0, 3))


def test_a_rule_about_a_part_is_not_blamed_for_the_other_part() -> None:
    """`every zor begins with rotate` is right; the other half is not found yet, and the model repeats itself."""
    seen = [Attempt(f"a{n}", 1, f"zor-mil: rotate then add {n % 2}.", False) for n in range(16)]
    rule = behavior_prior(support=8, members=9)
    assert credibility(rule, record("every zor begins with rotate", seen)) < BELIEVED
    tried = approaches("every zor begins with rotate", seen)
    assert tried == Tally(0, 2), "sixteen attempts, two approaches"
    assert credibility(rule, tried, blame=0.3) > 0.7


def test_an_approach_passed_if_at_least_half_of_its_attempts_did() -> None:
    assert approaches("rotate then add 3", attempts(True, False)) == Tally(1, 1)
    assert approaches("rotate then add 3", attempts(True, False, False)) == Tally(0, 1)


def test_failures_count_more_where_the_like_mostly_pass() -> None:
    rule = behavior_prior(support=8, members=9)
    early, late = (credibility(rule, Tally(0, 8), blame=blame) for blame in (Tally(2, 40).rate, Tally(38, 40).rate))
    assert early > 0.7 > BELIEVED > late


def test_support_counts_problems_that_agree_and_refuses_empty_rules() -> None:
    strategies = ["zor-mil: rotate then add 3", "zor-kem: rotate then add 1", "zor-pav: reverse then add 3"]
    shared = terms("apply zor")
    assert support("every zor begins with rotate", strategies, shared).agreeing == 2
    assert support("every zor begins", strategies, shared).agreeing == 0


def test_notes_contradict_when_they_share_some_and_differ_in_some() -> None:
    vocabulary = terms("zor-mil zor-kem rotate reverse then add 3 1")
    rule, strategy = terms("every zor begins with rotate"), terms("zor-mil: reverse then add 3")
    assert contradicts(rule, strategy, vocabulary)
    assert not contradicts(rule, terms("zor-mil: rotate then add 3"), vocabulary)
    assert not contradicts(terms("every pav begins with rotate"), terms("kem: swap"), vocabulary)


CHOICE = Problem(
    id="c",
    messages=[Message(role="user", content="Which?\nA: 1 4 2 3\nB: 4 7 5 6\nC: none\nD: both")],
    verifier={"kind": "choice", "answer": "B", "labels": ["A", "B", "C", "D"]},
)
EXACT = Problem(
    id="e", messages=[Message(role="user", content="Sum of 40 and 2?")], verifier={"kind": "exact", "answer": "42"}
)
PASSED = "Plan.\n```python\ndef solve(a):\n    b = [a[1], a[0]]\n    return b + [sum(b), len(b)]\n```"


@pytest.mark.parametrize(
    ("problem", "note"),
    [
        (CHOICE, "The answer is B."),
        (CHOICE, "Choose option (B) here"),
        (CHOICE, "always end with <answer>B</answer>"),
        (CHOICE, "look for 4 7 5 6"),
        (EXACT, "it is 42"),
        (code_problem("p", "Apply zor-mil."), "return [1, 4, 1, 5] for the first test"),
        (code_problem("p", "Apply zor-mil."), "```python\ndef solve(a): return a\n```"),
        (code_problem("p", "Apply zor-mil."), "use b = [a[1], a[0]] and return b + [sum(b), len(b)]"),
        (code_problem("p", "Apply zor-mil."), "def solve(a):\n    return a[::-1]"),
    ],
)
def test_notes_that_give_the_answer_away_are_caught(problem: Problem, note: str) -> None:
    assert leak(note, problem, [PASSED])


@pytest.mark.parametrize(
    ("problem", "note"),
    [
        (CHOICE, "The answer is a permutation; work it out digit by digit."),
        (CHOICE, "Compare each option with the rotated input."),
        (CHOICE, "zor-mil: rotate then add 3."),
        (EXACT, "Add the tens of 40 before the ones."),
        (code_problem("p", "Apply zor-mil."), "zor-mil: rotate then add 3."),
        (code_problem("p", "Apply zor-mil."), "Do not sort the list; check b + [sum(b)] last."),
    ],
)
def test_ordinary_notes_are_not(problem: Problem, note: str) -> None:
    assert leak(note, problem, [PASSED]) is None


def test_term_clusters_overlap_and_skip_words_that_everybody_uses() -> None:
    questions = {f"p{n}": f"apply {f}" for n, f in enumerate(["zor mil", "zor kem", "zor mil", "pav mil", "pav x"])}
    clusters = {c.topic: c.problem_ids for c in term_clusters(questions, questions | {"q": "apply y"}, 2)}
    assert clusters == {"mil": ("p0", "p2", "p3"), "pav": ("p3", "p4"), "zor": ("p0", "p1", "p2")}


def test_embedding_clusters_group_what_lies_close() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2]]
    groups = Groups(distance=0.5, min_size=2)
    first = {"a": "cluster:a", "b": "cluster:a", "c": "cluster:c", "d": "cluster:c"}
    assert groups.add(["a", "b", "c", "d", "e"], vectors) == first
    later = np.eye(4, dtype=np.float32)[[0, 2, 3]]
    assert groups.add(["f", "g", "h"], later) == {"f": "cluster:a", "e": "cluster:e", "g": "cluster:e"}
    assert {name: size for name, (size, _) in groups.sums().items()} == {"cluster:a": 3, "cluster:c": 2, "cluster:e": 2}


def test_embeddings_are_unit_length_and_know_spelling() -> None:
    rows = HashEmbedder().embed(["every zor begins with rotate", "apply zor-mil", "apply pav-kem", ""])
    assert np.allclose(np.linalg.norm(rows[:3], axis=1), 1.0, atol=1e-6)
    assert not rows[3].any()
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
