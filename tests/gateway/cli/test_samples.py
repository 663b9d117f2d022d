"""`pmd runs samples` for people and for scripts."""

from __future__ import annotations

import json

from tests.gateway.cli.conftest import Api, Pmd

SAMPLE = {
    "rollout_id": "p-3#1", "problem_id": "p-3", "split": "train", "sample": 1, "policy_version": 9, "tokens": 512,
    "text": "a [list] of things", "finish_reason": "length", "outcome": "failed", "reward": 0.0, "error": "",
    "feedback": "expected [x]", "context": [{"role": "system", "content": "remember [this]"},
                                            {"role": "user", "content": "now solve"}],
}  # fmt: skip
PAGE = {"step": 4, "total": 31, "problems": {"p-3": [{"role": "user", "content": "what is it?"}]}, "samples": [SAMPLE]}


def test_attempts_are_read_in_a_terminal(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r/samples"] = PAGE
    words = ("--step", "4", "--split", "train", "--outcome", "failed", "--problem", "p-3", "--limit", "1", "--context")
    shown = pmd("runs", "samples", "r", *words).stdout
    for said in ("what is it?", "p-3#1", "failed, reward 0", "512 tokens, cut off", "a [list] of things"):
        assert said in shown
    for said in ("expected [x]", "remember [this]", "attempts 1 to 1 of 31 that match; more: --offset 1"):
        assert said in shown
    assert dict(api.asked[0].url.params) == {
        "step": "4", "split": "train", "outcome": "failed", "problem": "p-3", "context": "true", "limit": "1",
        "offset": "0",
    }  # fmt: skip


def test_what_is_not_judged_yet_and_what_matches_nothing_is_said(api: Api, pmd: Pmd) -> None:
    open_ = SAMPLE | {"outcome": None, "reward": None, "feedback": "", "context": None}
    api.answers["GET /v1/runs/r/samples"] = PAGE | {"samples": [open_]}
    assert "not judged" in pmd("runs", "samples", "r").stdout
    api.answers["GET /v1/runs/r/samples"] = PAGE | {"samples": [], "total": 0, "problems": {}}
    assert pmd("runs", "samples", "r").stdout == "step 4: attempts none of 0 that match\n"


def test_scripts_get_what_the_gateway_told(api: Api, pmd: Pmd) -> None:
    api.answers["GET /v1/runs/r/samples"] = PAGE
    assert json.loads(pmd("runs", "samples", "r", "--json").stdout) == PAGE
