"""Judging again under changed specs: what changed is what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from pmd.services.common.artifacts import read_table, write_bytes, write_problems, write_table
from pmd.services.common.columns import ROLLOUTS, VERDICTS
from pmd.services.common.wire import Message, Problem, Ref
from tests.verifier.test_service import http, rollout  # noqa: F401 -- a fixture


def verdict(outcome: str) -> dict[str, Any]:
    return {"outcome": outcome, "reward": float(outcome == "passed")}


def exact(answer: str) -> dict[str, Any]:
    return {"kind": "exact", "answer": answer}


def test_items_are_judged_again(http: TestClient) -> None:  # noqa: F811
    items = [
        {"verifier": exact("Neon"), "completion": "Neon", "verdict": verdict("failed")},
        {"verifier": exact("Neon"), "completion": "Iron", "verdict": verdict("failed") | {"feedback": "Answer: Iron"}},
        {"verifier": exact("Neon"), "completion": "Gold", "verdict": verdict("passed")},
        {"verifier": exact("Neon"), "completion": "Neon", "verdict": verdict("infra_error")},
        {"verifier": exact("Neon"), "completion": "Iron", "verdict": verdict("timeout") | {"feedback": "Answer: Iron"}},
    ]
    result = http.post("/v1/reverify", json={"items": items}).raise_for_status().json()
    assert (result["judged"], result["changed"]) == (5, 4)
    assert result["transitions"] == {
        "failed -> failed": 1,
        "failed -> passed": 1,
        "infra_error -> passed": 1,
        "passed -> failed": 1,
        "timeout -> failed": 1,
    }
    assert (result["mean_reward_old"], result["mean_reward_new"]) == pytest.approx((1 / 4, 1 / 4))
    assert [change["index"] for change in result["changes"]] == [0, 2, 3, 4]
    assert result["changes"][1]["new"]["feedback"] == "Answer: Gold"
    assert result["verdicts"] is None


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Any]:
    problems = [Problem(id=i, messages=[Message(role="user", content="q")], verifier=exact("x")) for i in ("a", "b")]
    rows = [rollout(p, "train", n, text) for p in ("a", "b") for n, text in enumerate(("x", "X", "y"))]
    old = [
        {"rollout_id": r["rollout_id"], "problem_id": r["problem_id"], "split": "train"}
        | verdict("passed" if r["text"] == "x" else "failed")
        | {"feedback": "" if r["text"] == "x" else f"Answer: {r['text']}"}
        for r in rows
    ]
    base = f"file://{tmp_path}"
    refs = {
        "rollouts": write_table(f"{base}/rollouts.parquet", rows, ROLLOUTS),
        "verdicts": write_table(f"{base}/verdicts.parquet", old, VERDICTS),
        "problems": write_problems(f"{base}/problems.parquet", problems),
    }
    return {name: ref.model_dump() for name, ref in refs.items()}


def test_an_artifact_is_judged_again_by_another_spec(
    http: TestClient,  # noqa: F811
    artifacts: dict[str, Any],
    tmp_path: Path,
) -> None:
    same = http.post("/v1/reverify", json=artifacts).raise_for_status().json()
    assert (same["judged"], same["changed"]) == (6, 0)
    kinder = {**artifacts, "specs": {"a": exact("x") | {"ignore_case": True}}, "out": f"file://{tmp_path}/new.parquet"}
    before = (tmp_path / "verdicts.parquet").read_bytes()
    result = http.post("/v1/reverify", json=kinder).raise_for_status().json()
    assert [(c["rollout_id"], c["old"]["outcome"], c["new"]["outcome"]) for c in result["changes"]] == [
        ("a#1", "failed", "passed")
    ]
    assert (result["mean_reward_old"], result["mean_reward_new"]) == pytest.approx((2 / 6, 3 / 6))
    written = read_table(Ref(**result["verdicts"]))
    assert [row["outcome"] for row in written] == ["passed", "passed", "failed", "passed", "failed", "failed"]
    assert (tmp_path / "verdicts.parquet").read_bytes() == before


def test_it_is_a_job_too(http: TestClient, artifacts: dict[str, Any]) -> None:  # noqa: F811
    http.put("/v1/jobs/again.1", json={"kind": "reverify", "request": artifacts}).raise_for_status()
    job = http.get("/v1/jobs/again.1", params={"wait": 20}).json()
    assert (job["status"], job["result"]["judged"]) == ("succeeded", 6)


def test_what_can_not_be_judged_again_is_422(http: TestClient, artifacts: dict[str, Any]) -> None:  # noqa: F811
    item = {"verifier": {"kind": "exakt"}, "completion": "", "verdict": verdict("failed")}
    changed = {**artifacts["rollouts"], "sha256": "0" * 64}
    for body, message in (
        ({}, "give items, or all of"),
        ({"items": []}, "give items, or all of"),
        ({"rollouts": artifacts["rollouts"]}, "all of rollouts, verdicts and problems"),
        ({"items": [item]}, "did you mean 'exact'"),
        ({**artifacts, "specs": {"z": exact("x")}}, "specs of problems that the problems artifact does not hold: z"),
        ({**artifacts, "rollouts": changed}, "changed after it was written"),
        ({**artifacts, "rollouts": {**changed, "uri": "file:///no/such"}}, "does not exist"),
        ({**artifacts, "verdicts": artifacts["problems"]}, "verdicts: the artifact has no column 'rollout_id'"),
        ({**artifacts, "problems": artifacts["verdicts"]}, "problems: the artifact has no column 'domain'"),
        ({**artifacts, "rollouts": {**changed, "uri": "nosuch://a/b"}}, "nosuch"),
        ({**artifacts, "rollouts": {**changed, "uri": "reference://x"}}, "reference://x can't be read"),
    ):
        answer = http.post("/v1/reverify", json=body)
        assert answer.status_code == 422, body
        assert message in answer.text


ROLLOUT = {"rollout_id": "a#0", "problem_id": "a", "split": "train", "text": "x"}
OLD = {"rollout_id": "a#0", "outcome": "passed", "reward": 1.0}
ASKED = {
    "problem_id": "a",
    "split": "train",
    "domain": "",
    "messages": '[{"role": "user", "content": "q"}]',
    "verifier": '{"kind": "exact", "answer": "x"}',
}
FOREIGN: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "ids that are numbers": ("rollouts", [ROLLOUT | {"rollout_id": 5}], "'rollout_id' of row 0 is no text"),
    "ids that are lists": ("rollouts", [ROLLOUT | {"rollout_id": ["a"]}], "'rollout_id' of row 0 is no text"),
    "an id that is missing": (
        "rollouts",
        [ROLLOUT, ROLLOUT | {"problem_id": None}],
        "'problem_id' of row 1 is no text",
    ),
    "a text that is missing": ("rollouts", [ROLLOUT, ROLLOUT | {"text": None}], "'text' of row 1 is no text"),
    "an unknown outcome": ("verdicts", [OLD | {"outcome": "won"}], "outcome"),
    "no domain": ("problems", [{k: v for k, v in ASKED.items() if k != "domain"}], "no column 'domain'"),
    "a verifier that is missing": ("problems", [ASKED, ASKED | {"verifier": None}], "'verifier' of row 1 is no text"),
    "a verifier that is a number": ("problems", [ASKED | {"verifier": "5"}], "holds no problems"),
    "messages that are numbers": ("problems", [ASKED | {"messages": "[5]"}], "holds no problems"),
    "deep messages": ("problems", [ASKED | {"messages": "[" * 100_000}], "holds no problems"),
    "a deep verifier": ("problems", [ASKED | {"verifier": "[" * 100_000}], "holds no problems"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_artifact_of_another_make_is_422(name: str, http: TestClient, tmp_path: Path) -> None:  # noqa: F811
    field, rows, message = FOREIGN[name]
    tables: dict[str, list[dict[str, Any]]] = {"rollouts": [ROLLOUT], "verdicts": [OLD], "problems": [ASKED]}
    tables[field] = rows
    refs = {
        table: write_table(f"file://{tmp_path}/{table}", content, pa.Table.from_pylist(content).schema).model_dump()
        for table, content in tables.items()
    }
    answer = http.post("/v1/reverify", json=refs)
    assert (answer.status_code, message in answer.text) == (422, True), answer.text


def test_a_file_of_another_kind_is_422(http: TestClient, artifacts: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    no_table = write_bytes(f"file://{tmp_path}/x", b"no table").model_dump()
    answer = http.post("/v1/reverify", json={**artifacts, "rollouts": no_table})
    assert (answer.status_code, "is no table" in answer.text) == (422, True), answer.text
