"""Strict values, settings, artifacts and weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pmd.services.common import artifacts
from pmd.services.common.columns import VERDICTS
from pmd.services.common.options import ContextSettings
from pmd.services.common.requests import GenerateRequest, RetrieveRequest, SplitScore
from pmd.services.common.settings import ServiceSettings, SettingsError, check_environment
from pmd.services.common.strict import explain
from pmd.services.common.wire import Message, Problem
from tests.limits import file_size_limit

ROW = {
    "rollout_id": "p#0",
    "problem_id": "p",
    "split": "train",
    "outcome": "passed",
    "reward": 1.0,
    "feedback": "",
    "sandbox_tier": "",
    "cpu_ms": 0.0,
    "error": "",
}


def test_law_11_a_nested_unknown_key_is_named_with_its_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        RetrieveRequest.model_validate({"settings": {"min_similarty": 0.2}})
    unknown = [e for e in explain(caught.value, RetrieveRequest) if "unknown" in e["message"]]
    assert unknown == [
        {"field": "settings.min_similarty", "message": "unknown key 'min_similarty'; did you mean 'min_similarity'?"}
    ]


@pytest.mark.parametrize("truth", [True, False])
def test_true_and_false_are_no_numbers(truth: bool) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate_json(json.dumps({"sampling": {"max_tokens": truth, "temperature": truth}}))
    told = {e["field"]: e["message"] for e in explain(caught.value, GenerateRequest)}
    assert told["sampling.max_tokens"] == told["sampling.temperature"] == "a number, not true or false"


def test_law_11_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMD_STATE_DRI", "x")
    with pytest.raises(SettingsError, match=r"PMD_STATE_DRI.*PMD_STATE_DIR"):
        check_environment(ServiceSettings)


def test_values_are_frozen() -> None:
    settings = ContextSettings()
    with pytest.raises(ValidationError):
        settings.k = 5  # type: ignore[misc]


def test_a_table_survives_the_round_trip_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/a/v.parquet"
    first = artifacts.write_table(uri, [ROW], VERDICTS)
    assert artifacts.read_table(first) == [ROW]
    assert artifacts.write_table(uri, [ROW], VERDICTS) == first
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["v.parquet"], "no part file stays behind"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large"), file_size_limit(4096):
        artifacts.write_bytes(f"file://{tmp_path}/x", bytes(40_000))
    assert list(tmp_path.iterdir()) == []


def test_a_changed_artifact_is_refused(tmp_path: Path) -> None:
    ref = artifacts.write_bytes(f"file://{tmp_path}/x", b"one")
    (tmp_path / "x").write_bytes(b"two")
    with pytest.raises(artifacts.ArtifactError, match="changed"):
        artifacts.read_bytes(ref)
    (tmp_path / "x").unlink()
    with pytest.raises(artifacts.ArtifactError, match="does not exist"):
        artifacts.read_bytes(ref)


def test_a_problem_in_which_nobody_asks_is_refused() -> None:
    with pytest.raises(ValidationError, match="no turn of a user"):
        Problem(id="p", messages=[Message(role="system", content="Answer.")], verifier={})


def test_problems_survive_the_round_trip(tmp_path: Path) -> None:
    problem = Problem(
        id="p", messages=[Message(role="user", content="Größe? 大")], verifier={"kind": "exact", "answer": "1"}
    )
    assert artifacts.read_problems(artifacts.write_problems(f"file://{tmp_path}/p", [problem])) == {"p": problem}


def test_some_problems_of_many_are_read_in_their_order_and_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Message(role="user", content="?")]
    many = [Problem(id=f"p{n}", messages=asked, verifier={}) for n in range(3 * artifacts.ROW_GROUP)]
    ref = artifacts.write_problems(f"file://{tmp_path}/p", many)
    decoded: list[int] = []
    whole = artifacts.pq.ParquetFile.read_row_groups

    def counted(file: artifacts.pq.ParquetFile, groups: list[int]) -> artifacts.pa.Table:
        decoded.extend(groups)
        return whole(file, groups)

    monkeypatch.setattr(artifacts.pq.ParquetFile, "read_row_groups", counted)
    first, last = many[1], many[-1]
    assert list(artifacts.read_problems(ref, [last.id, first.id, "unknown"])) == [first.id, last.id]
    assert decoded == [0, 2]
    assert artifacts.read_problems(ref, []) == {}
    assert artifacts.read_problems(ref) == {p.id: p for p in many}
    with pytest.raises(artifacts.ArtifactError, match="no column 'colour'"):
        artifacts.read_table(ref, ("colour", ["blue"]))


def test_weights_without_a_manifest_or_with_a_changed_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    weights = artifacts.seal_weights(tmp_path, 3, {"run": "r"})
    assert artifacts.check_weights(weights) == tmp_path
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(artifacts.ArtifactError, match=r"model\.safetensors"):
        artifacts.check_weights(weights)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(artifacts.ArtifactError, match="does not exist"):
        artifacts.check_weights(weights)


def test_scores_survive_json() -> None:
    score = SplitScore(problems=1, rollouts=8, pass_rate=0.5, pass_at={1: 0.5, 8: 1.0})
    assert SplitScore.model_validate_json(score.model_dump_json()) == score
