"""`pmd runs fork`: what it sends, what it says."""

from __future__ import annotations

import json

import httpx

from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.synthetic import report


def test_a_fork_is_asked_for_with_what_is_to_be_different(api: Api, pmd: Pmd) -> None:
    parent = {"run": "r", "step": 7, "version": 7, "seq": 41}
    view = report(id="r-2").run.model_dump(mode="json") | {"parent": parent, "steps": 9}
    api.answers["POST /v1/runs/r:fork"] = httpx.Response(201, json=view)
    api.answers["GET /v1/runs/r-2"] = view
    words = ("--at", "7", "--set", "optimizer.lr=0.5", "--set", "memory.start_from=null")
    result = pmd("runs", "fork", "r", *words)
    assert result.stdout == "run r-2 started with r's weights of step 7 and its memory (seq 41): 9 steps\n"
    assert json.loads(api.asked[0].content) == {
        "step": 7, "set": {"optimizer": {"lr": 0.5}, "memory": {"start_from": None}},
    }  # fmt: skip
    assert "forked from r at step 7" in pmd("runs", "show", "r-2").stdout


def test_a_wrong_override_is_said_before_anything_is_sent(api: Api, pmd: Pmd) -> None:
    assert pmd("runs", "fork", "r", "--set", "optimizer.lr").exit_code == 2
    assert api.asked == []
