"""Rollouts, steps, phases and problems over REST, of a run that really went through the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pmd.gateway.api.rollouts import RolloutQuery, decoded
from pmd.gateway.loop.order import walk
from pmd.gateway.registry.registry import Registry
from tests.gateway.api.person import Tree, create
from tests.gateway.conftest import PER_STEP

N = 8


def rollouts(http: TestClient, run: str, **asked: Any) -> dict[str, Any]:
    answer = http.get(f"/v1/runs/{run}/rollouts", params=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_newest_steps_rollouts_are_listed_with_their_verdicts_and_their_groups(
    http: TestClient, finished: str
) -> None:
    page = rollouts(http, finished)
    assert (page["step"], page["steps"], page["total"]) == (3, [1, 2, 3], PER_STEP * N)
    first = page["rollouts"][0]
    assert first["id"] == f"{first['problem_id']}#0"
    assert (first["outcome"], first["reward"]) == ("passed", 1.0)
    assert (first["group_passed"], first["group_judged"]) == (2, N)
    assert first["group_variance"] == pytest.approx(0.25 * 0.75)


def test_attempts_of_a_problem_stand_together_and_pages_meet(http: TestClient, finished: str) -> None:
    whole = rollouts(http, finished)["rollouts"]
    problems = [row["problem_id"] for row in whole]
    assert [row["sample"] for row in whole] == list(range(N)) * PER_STEP
    assert len({*problems}) == PER_STEP
    paged = [rollouts(http, finished, limit=5, offset=at)["rollouts"] for at in range(0, len(whole), 5)]
    assert [row for page in paged for row in page] == whole


FILTERS: list[tuple[dict[str, Any], int]] = [
    ({"outcome": "passed"}, 2 * PER_STEP),
    ({"outcome": "timeout"}, 0),
    ({"min_reward": 0.5}, 2 * PER_STEP),
    ({"max_reward": 0.5}, 6 * PER_STEP),
    ({"min_tokens": 2}, 0),
    ({"max_tokens": 1}, N * PER_STEP),
    ({"split": "test"}, 0),
    ({"q": "ANSW"}, N * PER_STEP),
    ({"q": "else"}, 0),
    ({"drawn": "probe"}, PER_STEP),
    ({"drawn": "evaluation", "step": 2}, 4 * 2),
    ({"drawn": "evaluation", "step": 2, "split": "unseen"}, 2 * 2),
]


def test_a_filter_leaves_what_it_says(http: TestClient, finished: str) -> None:
    for asked, total in FILTERS:
        page = rollouts(http, finished, **asked)
        assert page["total"] == len(page["rollouts"]) == total, asked
    problem = rollouts(http, finished)["rollouts"][0]["problem_id"]
    assert {row["problem_id"] for row in rollouts(http, finished, problem_id=problem)["rollouts"]} == {problem}


def test_a_step_without_rollouts_is_named(http: TestClient, finished: str) -> None:
    answer = http.get(f"/v1/runs/{finished}/rollouts", params={"step": 99})
    assert answer.status_code == 404
    assert "steps 1 to 3 have" in answer.json()["title"]


def test_a_run_that_has_drawn_nothing_has_an_empty_page(http: TestClient, recipe_tree: Tree) -> None:
    run = create(http, recipe_tree())["id"]
    page = rollouts(http, run)
    assert (page["steps"], page["rollouts"]) == ([], [])
    assert http.get(f"/v1/runs/{run}/steps").json() == []
    assert http.get("/v1/curves", params={"run": run}).json() == [{"run": run, "pass_rate": [], "accuracy": {}}]


def test_one_rollout_is_told_whole_and_the_expected_answer_is_not(http: TestClient, finished: str) -> None:
    row = rollouts(http, finished)["rollouts"][0]
    path = f"/v1/runs/{finished}/steps/3/rollouts/{quote(row['id'], safe='')}"
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["row"] == row
    assert told["problem"][0]["content"].startswith("question train")
    unknown = {"id": 2, "text": "", "logprob": -0.5, "teacher_logprob": -0.25}
    assert told["tokens"] == [unknown], "one token that the tokenizer does not have"
    assert told["context"]["has_context"]
    assert "secret-answer" not in answer.text
    assert http.get(path.replace("steps/3", "steps/99")).status_code == 404
    assert http.get(path + "x").status_code == 404


def test_a_probe_is_told_with_what_it_was_drawn_from(http: TestClient, finished: str) -> None:
    row = rollouts(http, finished, drawn="probe")["rollouts"][0]
    path = f"/v1/runs/{finished}/steps/3/rollouts/{quote(row['id'], safe='')}"
    told = http.get(path, params={"drawn": "probe"}).json()
    trained = http.get(f"/v1/runs/{finished}/steps/3/rollouts/{quote(row['problem_id'] + '#0', safe='')}").json()
    assert told["context"]["messages"] == trained["context"]["messages"]
    assert (told["tokens"][0]["teacher_logprob"], trained["tokens"][0]["teacher_logprob"]) == (None, -0.25)


def test_an_artifact_that_is_gone_is_named(http: TestClient, finished: str, registry: Registry) -> None:
    from pmd.gateway.loop.state import PhaseName
    from pmd.services.common.artifacts import local_path

    state, _ = registry.state(finished)
    local_path(state.records[2, PhaseName.ROLLOUT].result["rollouts"]["uri"]).unlink()
    answer = http.get(f"/v1/runs/{finished}/rollouts", params={"step": 2})
    assert answer.status_code == 404
    assert "does not exist" in answer.json()["title"]


def test_a_problem_is_told_step_by_step(http: TestClient, finished: str) -> None:
    problem = rollouts(http, finished, step=1)["rollouts"][0]["problem_id"]
    answer = http.get(f"/v1/runs/{finished}/problems/{problem}")
    told = answer.json()
    assert (told["id"], told["split"]) == (problem, "train")
    trained = [each for each in told["history"] if each["drawn"] == "train"]
    assert trained[0] == {
        "step": 1, "drawn": "train", "policy_version": 0, "passed": 2, "judged": N, "reward": 0.25,
    }  # fmt: skip
    listed = [step for step in (1, 2, 3) if rollouts(http, finished, step=step, problem_id=problem)["total"]]
    assert [each["step"] for each in trained] == listed
    assert "secret-answer" not in answer.text
    scored = http.get(f"/v1/runs/{finished}/problems/test-0").json()["history"]
    assert {each["drawn"] for each in scored} == {"evaluation"}
    assert http.get(f"/v1/runs/{finished}/problems/nobody").status_code == 404


def test_files_are_read_where_a_storage_that_hangs_holds_up_no_other_request(
    app: FastAPI, http: TestClient, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    reading = app.state.parts.reading
    run = reading.run

    async def counted(work: Callable[[], object]) -> object:
        read.append(work)
        return await run(work)

    monkeypatch.setattr(reading, "run", counted)
    rollout = quote(rollouts(http, finished, step=1)["rollouts"][0]["id"], safe="")
    for path in (f"steps/1/rollouts/{rollout}", "problems/test-0", "disk"):
        assert http.get(f"/v1/runs/{finished}/{path}").status_code == 200
    assert len(read) == 4


def test_the_order_of_problems_is_walked_once_for_all_steps(
    http: TestClient, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[object] = []

    def counted(*given: Any) -> Any:
        walks.append(given)
        return walk(*given)

    monkeypatch.setattr("pmd.gateway.api.rollouts.walk", counted)
    problem = rollouts(http, finished, step=1)["rollouts"][0]["problem_id"]
    assert http.get(f"/v1/runs/{finished}/problems/{problem}").json()["history"]
    assert len(walks) == 1


def test_a_filter_by_what_was_not_judged_yet_finds_nothing() -> None:
    table = pa.table({"text": ["İ think", "no"], "tokens": [1, 2]})
    assert RolloutQuery(min_reward=0.0).of(table).num_rows == 0
    assert RolloutQuery(q="THINK", max_tokens=1).of(table)["tokens"].to_pylist() == [1]
    judged = table.append_column("reward", pa.array([None, 0.0]))
    assert RolloutQuery(min_reward=0.0).of(judged)["tokens"].to_pylist() == [2]


def test_steps_are_those_of_the_report(http: TestClient, finished: str) -> None:
    steps = http.get(f"/v1/runs/{finished}/steps").json()
    assert steps == http.get(f"/v1/runs/{finished}/report").json()["steps"]
    assert [step["step"] for step in http.get(f"/v1/runs/{finished}/steps", params={"after": 1}).json()] == [2, 3]
    assert (steps[1]["tokens"], steps[1]["truncated"], steps[1]["reward"]) == (PER_STEP * N, 0, steps[1]["reward"])


def test_phases_have_their_times(http: TestClient, finished: str) -> None:
    phases = http.get(f"/v1/runs/{finished}/phases").json()
    assert {each["service"] for each in phases} == {"rollout", "verifier", "memory", "trainer"}
    assert all(each["submitted"] <= each["ended"] for each in phases)
    newest = http.get(f"/v1/runs/{finished}/phases", params={"since": 3}).json()
    assert newest == [each for each in phases if each["step"] >= 3]


def test_curves_of_many_runs_come_at_once(http: TestClient, finished: str, recipe_tree: Tree) -> None:
    other = create(http, recipe_tree())["id"]
    curves = http.get("/v1/curves", params={"run": [finished, other, finished]}).json()
    assert [each["run"] for each in curves] == [finished, other]
    steps = http.get(f"/v1/runs/{finished}/steps").json()
    assert curves[0]["pass_rate"] == [[s["step"], s["pass_rate"]] for s in steps if s["pass_rate"] is not None]
    assert [point[0] for point in curves[0]["accuracy"]["test"]] == [0, 2, 3]
    assert http.get("/v1/curves", params={"run": ["nobody-1"]}).status_code == 404
    assert http.get("/v1/curves").status_code == 422


def test_what_a_run_takes_of_the_disk_is_counted(http: TestClient, finished: str) -> None:
    disk = http.get(f"/v1/runs/{finished}/disk").json()
    assert disk["bytes"] == sum(disk["by_folder"].values()) > 0
    assert {"steps", "problems"} <= disk["by_folder"].keys()


def test_a_character_of_several_tokens_is_told_where_it_is_complete() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert decoded(tokenizer, tokenizer.encode("aé!").ids) == ["a", "", "é", "!"]
