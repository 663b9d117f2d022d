"""Attempts of a step, as the artifacts of a run hold them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pmd.gateway.registry.registry import Registry
from pmd.gateway.views import RunStatus


def test_attempts_are_told_with_question_verdict_and_context(http: TestClient, finished: str) -> None:
    page = http.get(f"/v1/runs/{finished}/samples", params={"step": 2, "split": "train", "context": True}).json()
    assert (page["step"], page["total"], len(page["samples"])) == (2, 4 * 8, 20)
    first = page["samples"][0]
    assert (first["text"], first["outcome"], first["reward"], first["tokens"]) == ("answer", "passed", 1.0, 1)
    assert first["context"] == [{"role": "user", "content": "with advice"}]
    assert page["problems"][first["problem_id"]][0]["content"].startswith("question train")
    assert "secret-answer" not in str(page), "an expected answer is no matter of a reader"


@pytest.mark.parametrize(
    ("asked", "total"),
    [
        ({}, 4 * 8 + 4 * 2),
        ({"split": "train"}, 4 * 8),
        ({"split": "test"}, 2 * 2),
        ({"split": "train", "outcome": "failed"}, 4 * 6),
        ({"outcome": "timeout"}, 0),
        ({"problem": "test-1"}, 2),
    ],
)
def test_attempts_are_filtered(asked: dict[str, str], total: int, http: TestClient, finished: str) -> None:
    page = http.get(f"/v1/runs/{finished}/samples", params={"step": 2, "limit": 500, **asked}).json()
    assert (page["total"], len(page["samples"])) == (total, total)
    for sample in page["samples"]:
        assert all(sample[{"problem": "problem_id"}.get(key, key)] == value for key, value in asked.items())


def test_pages_follow_each_other_without_a_gap(http: TestClient, finished: str) -> None:
    path = f"/v1/runs/{finished}/samples"
    whole = http.get(path, params={"limit": 500}).json()
    pages = [http.get(path, params={"limit": 7, "offset": at}).json()["samples"] for at in range(0, whole["total"], 7)]
    assert [sample for page in pages for sample in page] == whole["samples"]
    assert whole["step"] == 3, "the newest step, unless one is asked for"


def test_what_is_not_there_is_said(http: TestClient, finished: str, registry: Registry, tmp_path: Path) -> None:
    path = f"/v1/runs/{finished}/samples"
    missing = http.get(path, params={"step": 9})
    assert (missing.status_code, missing.json()["title"]) == (
        404,
        f"run {finished!r} has no attempts of step 9; steps 0 to 3 have",
    )
    assert http.get("/v1/runs/nobody-1/samples").status_code == 404
    assert (
        http.get(path, params={"outcom": "failed"}).json()["errors"][0]["message"].endswith("did you mean 'outcome'?")
    )
    assert registry.run(finished)["status"] == RunStatus.SUCCEEDED
    (found,) = tmp_path.rglob(f"{finished}/steps")
    shutil.rmtree(found)
    assert "was its run deleted or moved?" in http.get(path).json()["title"]
