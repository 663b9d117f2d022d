"""`pmd runs samples` for people and for scripts."""

from __future__ import annotations

import json

from tests.gateway.cli.conftest import Api, Pmd

ROW = {
    "id": "p-3#1", "problem_id": "p-3", "split": "train", "sample": 1, "policy_version": 9, "tokens": 512,
    "finish_reason": "length", "outcome": "failed", "reward": 0.0,
}  # fmt: skip
REMEMBERED = [{"role": "system", "content": "remember [this]"}, {"role": "user", "content": "now solve"}]
DETAIL = {
    "row": ROW, "problem": [{"role": "user", "content": "what is it?"}], "text": "a [list] of things", "error": "",
    "feedback": "expected [x]", "context": {"messages": REMEMBERED, "has_context": True},
}  # fmt: skip
PAGE = {"step": 4, "total": 31, "rollouts": [ROW]}
LIST, ONE = "GET /v1/runs/r/rollouts", "GET /v1/runs/r/steps/4/rollouts/p-3#1"


def test_attempts_are_read_in_a_terminal(api: Api, pmd: Pmd) -> None:
    api.answers |= {LIST: PAGE, ONE: DETAIL}
    words = ("--step", "4", "--split", "train", "--outcome", "failed", "--problem", "p-3", "--limit", "1", "--context")
    shown = pmd("runs", "samples", "r", *words).stdout
    for said in ("what is it?", "p-3#1", "failed, reward 0", "512 tokens, cut off", "a [list] of things"):
        assert said in shown
    for said in ("expected [x]", "remember [this]", "attempts 1 to 1 of 31 that match; more: --offset 1"):
        assert said in shown
    assert dict(api.asked[0].url.params) == {
        "step": "4", "drawn": "train", "split": "train", "outcome": "failed", "problem_id": "p-3", "sort": "problem",
        "limit": "1", "offset": "0",
    }  # fmt: skip
    assert "remember" not in pmd("runs", "samples", "r").stdout


def test_what_is_not_judged_yet_and_what_matches_nothing_is_said(api: Api, pmd: Pmd) -> None:
    api.answers |= {LIST: PAGE, ONE: DETAIL | {"row": ROW | {"outcome": None, "reward": None}, "context": None}}
    assert "not judged" in pmd("runs", "samples", "r", "--context").stdout
    api.answers[LIST] = PAGE | {"rollouts": [], "total": 0}
    none = pmd("runs", "samples", "r", "--drawn", "probe").stdout
    assert none == "step 4, probe: attempts none of 0 that match\n"


def test_scripts_get_what_the_gateway_told(api: Api, pmd: Pmd) -> None:
    api.answers |= {LIST: PAGE, ONE: DETAIL}
    said = json.loads(pmd("runs", "samples", "r", "--json").stdout)
    assert said == {"step": 4, "drawn": "train", "total": 31, "rollouts": [DETAIL]}
