"""Jobs `generate` and `publish`, through the service's own HTTP face."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from pmd.services.common.artifacts import read_table, seal_weights
from pmd.services.common.columns import ROLLOUTS
from pmd.services.common.jobs import JobContext
from pmd.services.common.requests import GenerateRequest
from pmd.services.common.wire import Policy, Ref, Sampling
from pmd.services.rollout.completion import Completion, Row, repetition
from pmd.services.rollout.engines import Engine
from pmd.services.rollout.engines.transformers.engine import TransformersEngine
from pmd.services.rollout.handlers import generate
from pmd.services.rollout.parts import Parts
from pmd.services.rollout.published import Published
from pmd.services.rollout.settings import RolloutSettings
from tests.rollout.conftest import (
    TOKEN,
    MakePolicy,
    make_model,
    make_tokenizer,
    open_service,
    publish,
    run_job,
    tampered,
    wait_ready,
    write_prompts,
)


def request(policy: Policy, prompts: Ref, folder: Path, **changes: Any) -> dict[str, Any]:
    body = GenerateRequest(
        policy=policy,
        prompts=prompts,
        n=2,
        sampling=Sampling(max_tokens=12),
        seed=7,
        out=f"file://{folder}/rollouts-{time.monotonic_ns()}.parquet",
    )
    return body.model_copy(update=changes).model_dump(mode="json")


def rollouts(job: dict[str, Any]) -> list[dict[str, Any]]:
    assert job["status"] == "succeeded", job
    return read_table(Ref(**job["result"]["rollouts"]))


def test_generate_writes_one_rollout_per_prompt_and_sample(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path, ["one", "two and more", "three"])
    job = run_job(service, "g1", "generate", request(make_policy(), prompts, tmp_path, ids=["p2", "p0"]))
    rows = rollouts(job)
    assert list(rows[0]) == ROLLOUTS.names
    assert [row["rollout_id"] for row in rows] == ["p2#0", "p2#1", "p0#0", "p0#1"]
    tokenizer = make_tokenizer()
    for row in rows:
        assert row["policy_version"] == 1
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert (row["finish_reason"] == "stop") == (row["token_ids"][-1] == tokenizer.eos_token_id)
        assert len(row["logprobs"]) == len(row["token_ids"]) <= 12
    expected = "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(rows[0]["prompt_ids"]) == expected
    assert job["result"]["tokens"] == sum(len(row["token_ids"]) for row in rows)
    assert job["result"]["truncated"] == sum(row["finish_reason"] == "length" for row in rows)
    assert job["result"]["repetition"] == pytest.approx(sum(repetition(row["token_ids"]) for row in rows) / len(rows))


def test_the_same_request_gives_the_same_bytes(service: TestClient, make_policy: MakePolicy, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, ["one", "two"])
    hashes = {
        run_job(service, key, "generate", request(make_policy(), prompts, tmp_path))["result"]["rollouts"]["sha256"]
        for key in ("a", "b")
    }
    assert len(hashes) == 1


def test_a_rollout_does_not_depend_on_which_other_prompts_are_asked(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path, ["one", "two"])
    greedy = Sampling(temperature=0.7, max_tokens=12)
    both = rollouts(run_job(service, "both", "generate", request(make_policy(), prompts, tmp_path, sampling=greedy)))
    alone = rollouts(
        run_job(service, "alone", "generate", request(make_policy(), prompts, tmp_path, ids=["p1"], sampling=greedy))
    )
    assert [row["token_ids"] for row in alone] == [row["token_ids"] for row in both[2:]]


def test_every_rollout_says_the_version_that_made_it(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    """v1, v2, then v1 again: a request gets the version it names, whatever is published."""
    prompts = write_prompts(tmp_path, ["one"])
    made = {}
    for turn, version in enumerate((1, 2, 1)):
        policy = make_policy(version=version)
        if turn < 2:
            publish(service, policy)
            assert service.get("/readyz").json()["runs"]["demo"] == {
                "desired": version,
                "loaded": version,
                "ready": True,
            }
        body = request(policy, prompts, tmp_path, sampling=Sampling(temperature=0, max_tokens=12))
        rows = rollouts(run_job(service, f"g{turn}", "generate", body))
        assert {row["policy_version"] for row in rows} == {version}
        reference = make_model(version).generate(
            torch.tensor([rows[0]["prompt_ids"]]), max_new_tokens=12, do_sample=False
        )
        assert rows[0]["token_ids"] == reference[0, len(rows[0]["prompt_ids"]) :].tolist()
        made[turn] = rows[0]["token_ids"]
    assert made[0] == made[2] != made[1]
    assert 'pmd_rollout_loaded_version{run="demo"} 1.0' in service.get("/metrics").text


def test_weights_with_another_hash_are_refused_and_change_nothing(service: TestClient, make_policy: MakePolicy) -> None:
    publish(service, make_policy())
    job = run_job(service, "bad", "publish", {"policy": tampered(make_policy(version=2)).model_dump()})
    assert job["status"] == "failed"
    assert "ArtifactError" in job["error"]["message"]
    assert not job["error"]["retryable"]
    assert service.get("/readyz").json()["runs"]["demo"]["desired"] == 1


def test_a_prompt_that_leaves_no_room_is_answered_with_nothing(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    """A context that has outgrown the window must not end a run that has others."""
    prompts = write_prompts(tmp_path, ["short", "long " * 300, "two"])
    cut = run_job(service, "cut", "generate", request(make_policy(), prompts, tmp_path))
    rows = {row["rollout_id"]: row for row in rollouts(cut)}
    assert list(rows) == [f"p{prompt}#{sample}" for prompt in range(3) for sample in range(2)]
    for sample in range(2):
        empty = rows[f"p1#{sample}"]
        assert (empty["token_ids"], empty["text"], empty["finish_reason"]) == ([], "", "length")
        assert len(empty["prompt_ids"]) > 256
    whole = run_job(service, "whole", "generate", request(make_policy(), prompts, tmp_path, ids=["p0", "p2"]))
    assert [rows[row["rollout_id"]] for row in rollouts(whole)] == rollouts(whole)


def test_when_no_prompt_leaves_room_the_request_is_refused(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path, ["short", "long " * 300])
    job = run_job(service, "long", "generate", request(make_policy(), prompts, tmp_path, ids=["p1"]))
    assert job["status"] == "failed"
    assert "prompt 'p1'" in job["error"]["message"]
    assert "context window of 256" in job["error"]["message"]
    bare = write_prompts(tmp_path, ["short", "long " * 300], has_context=False)
    job = run_job(service, "bare", "generate", request(make_policy(), bare, tmp_path, ids=["p1"]))
    assert job["status"] == "failed"


def test_a_lone_context_that_has_outgrown_the_window_is_answered_with_nothing(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    contexts = write_prompts(tmp_path, ["long " * 300], has_context=True)
    job = run_job(service, "probe", "generate", request(make_policy(), contexts, tmp_path))
    assert [(row["text"], row["finish_reason"]) for row in rollouts(job)] == [("", "length")] * 2


def test_an_unknown_prompt_is_refused_with_the_nearest(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path, ["short"])
    job = run_job(service, "who", "generate", request(make_policy(), prompts, tmp_path, ids=["p00"]))
    assert "no prompt 'p00' in the artifact; did you mean 'p0'?" in job["error"]["message"]


def test_generation_is_cancelled_between_forward_passes(
    service: TestClient, make_policy: MakePolicy, tmp_path: Path
) -> None:
    publish(service, make_policy())
    prompts = write_prompts(tmp_path, ["one"])
    body = request(make_policy(), prompts, tmp_path, n=1024, sampling=Sampling(temperature=1, max_tokens=200))
    service.put("/v1/jobs/slow", json={"kind": "generate", "request": body})
    while service.get("/v1/jobs/slow").json()["status"] == "queued":
        time.sleep(0.01)
    service.delete("/v1/jobs/slow")
    assert service.get("/v1/jobs/slow", params={"wait": 20}).json()["status"] == "cancelled"


def test_a_restarted_replica_loads_what_was_desired(make_policy: MakePolicy, tmp_path: Path) -> None:
    with open_service(tmp_path) as first:
        publish(first, make_policy(version=1))
        publish(first, make_policy(version=2))
        publish(first, make_policy("other", 1))
    with open_service(tmp_path) as second:
        runs = wait_ready(second)["runs"]
    assert runs == {
        "other": {"desired": 1, "loaded": 1, "ready": True},
        "demo": {"desired": 2, "loaded": 2, "ready": True},
    }


def test_weights_that_cannot_be_loaded_leave_the_other_runs_served(make_policy: MakePolicy, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "of_a_later_release"}')
    later = Policy(run="later", weights=seal_weights(folder, 1, {}))
    with open_service(tmp_path) as first:
        publish(first, make_policy())
    Published(tmp_path / "rollout" / "published.sqlite").publish(later)
    with open_service(tmp_path) as second:
        runs = wait_ready(second)["runs"]
    assert runs == {
        "later": {"desired": 1, "loaded": None, "ready": False},
        "demo": {"desired": 1, "loaded": 1, "ready": True},
    }


def test_only_the_most_recently_used_runs_stay_in_memory(service: TestClient, make_policy: MakePolicy) -> None:
    for run in ("first", "second", "third"):
        publish(service, make_policy(run))
    runs = service.get("/readyz").json()["runs"]
    assert {run: facts["loaded"] for run, facts in runs.items()} == {"first": None, "second": 1, "third": 1}
    assert [run for run, facts in runs.items() if not facts["ready"]] == ["first"], "not loaded"
    answer = service.post(
        "/v1/chat/completions",
        json={"model": "first", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    )
    assert answer.json()["model"] == "first@1"


def test_health_answers_before_torch_is_there(make_policy: MakePolicy, tmp_path: Path) -> None:
    with open_service(tmp_path) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401


def test_the_service_starts_without_importing_torch() -> None:
    import subprocess
    import sys

    code = "import sys, pmd.services.rollout.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Dies:
    """An engine that finishes some rows, then is gone; and notes what it was asked for."""

    def __init__(self, engine: Engine, finishes: int | None) -> None:
        self._engine = engine
        self._finishes = finishes
        self.asked: list[int] = []
        self.render, self.details = engine.render, engine.details

    def generate(self, policy: Policy, rows: list[Row], sampling: Sampling, check: Any, drawn: Any) -> list[Completion]:
        self.asked.append(len(rows))
        made = self._engine.generate(policy, rows[: self._finishes], sampling, check, drawn)
        if self._finishes is not None:
            raise KeyboardInterrupt("kill -9")
        return made


def test_law_6_what_was_drawn_before_a_death_is_not_drawn_again(make_policy: MakePolicy, tmp_path: Path) -> None:
    """Bit for bit the same: what is left is split into the batches that were left."""
    real = TransformersEngine(RolloutSettings(token=TOKEN, rollout_threads=1, rollout_batch_rows=2))
    prompts = write_prompts(tmp_path, ["one", "two", "three"])
    whole, cut = (
        GenerateRequest(**request(make_policy(), prompts, tmp_path, sampling=Sampling(temperature=0, max_tokens=9)))
        for _ in range(2)
    )
    path = tmp_path / "parts.sqlite"
    expected = generate(real, whole, JobContext("whole", threading.Event()), Parts(path))
    first = Dies(real, finishes=4)
    with pytest.raises(KeyboardInterrupt):
        generate(first, cut, JobContext("cut", threading.Event()), Parts(path))  # type: ignore[arg-type]
    second = Dies(real, finishes=None)
    made = generate(second, cut, JobContext("cut", threading.Event()), Parts(path))  # type: ignore[arg-type]
    assert (first.asked, second.asked) == ([6], [2])
    assert made.rollouts.sha256 == expected.rollouts.sha256
    assert Parts(path).of("cut") == Parts(path).of("whole") == {}


def test_parts_of_jobs_that_have_ended_go_at_the_next_start(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts.sqlite")
    one = Completion([1, 2], [-0.1, -1 / 3], "é", "stop", 4)
    for job in ("kept", "gone"):
        parts.keep(job, {3: one, 1: one})
    parts.drop_others(["kept", "other"])
    again = Parts(tmp_path / "parts.sqlite")
    assert (again.of("kept"), again.of("gone")) == ({1: one, 3: one}, {})
