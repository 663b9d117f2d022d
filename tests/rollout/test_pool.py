"""A pool of replicas: shares, versions, deaths. The replicas are played at the wire, by what their contract says."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from pmd.services.common import client as service_client
from pmd.services.common.artifacts import local_path, read_table, write_table
from pmd.services.common.columns import PROMPTS, ROLLOUTS
from pmd.services.common.requests import GenerateResult
from pmd.services.common.tokens import Tokens
from pmd.services.common.wire import Policy, Ref, Weights
from pmd.services.rollout import pool as pool_module
from pmd.services.rollout import replicas as replicas_module
from pmd.services.rollout.pool import create_pool
from pmd.services.rollout.replicas import Replicas, addresses
from pmd.services.rollout.settings import RolloutSettings

TOKEN = "test-token-0123456789"
PROMPT_COUNT = 20


class Played(httpx.BaseTransport):
    """One replica: keeps jobs, loads versions, and draws tokens that follow from seed and rollout id alone."""

    def __init__(self) -> None:
        self.loaded: dict[str, int] = {}
        self.known: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.drew: list[str] = []
        """Prompt ids, as they were drawn."""
        self.cancelled: list[str] = []
        self.status = 200
        """What it answers instead, when it is not 200."""
        self.dead = threading.Event()
        self.dies_after = 10**9
        """Number of shares after which it dies, in the middle of one."""
        self.serves: int | None = None
        """Version that its rows say, whatever was asked for."""
        self.can_load = True
        self.pause_s = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.dead.is_set():
            raise httpx.ConnectError("connection refused")
        if self.status != 200:
            return httpx.Response(self.status, json={"title": "busy"})
        path = request.url.path
        if path == "/readyz":
            runs = {run: {"desired": v, "loaded": v, "ready": True} for run, v in self.loaded.items()}
            return httpx.Response(200, json={"engine": "played", "device": "none", "dtype": "float32", "runs": runs})
        if path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": name} for name in self.known]})
        if path == "/v1/chat/completions":
            return httpx.Response(200, json={"model": json.loads(request.content)["model"]})
        if path.startswith("/v1/runs/"):
            return httpx.Response(200, json={})
        key = path.rpartition("/")[2]
        if request.method == "DELETE":
            self.cancelled.append(key)
        elif request.method == "PUT":
            self.jobs.setdefault(key, self.work(key, json.loads(request.content)))
        if self.dead.is_set():
            raise httpx.ReadError("reset")
        return httpx.Response(200, json=self.jobs[key])

    def work(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        job = {"key": key, "kind": body["kind"], "status": "succeeded", "created": 0.0, "seconds": 0.0}
        request = body["request"]
        if body["kind"] == "publish":
            if not self.can_load:
                return job | {"status": "failed", "error": {"message": "weights are broken", "retryable": False}}
            weights = request["policy"]["weights"]
            self.loaded[request["policy"]["run"]] = weights["version"]
            self.known.append(f"{request['policy']['run']}@{weights['version']}")
            return job | {"result": request["policy"]}
        time.sleep(self.pause_s)
        if len(self.drew) >= self.dies_after * pool_module.SHARE_PROMPTS:
            self.dead.set()
            return job
        version = self.serves or self.loaded[request["policy"]["run"]]
        rows = [
            {
                "rollout_id": f"{prompt}#{sample}",
                "prompt_id": prompt,
                "problem_id": prompt,
                "split": "train",
                "sample": sample,
                "prompt_ids": [1],
                "token_ids": [request["seed"], sample],
                "logprobs": [-0.5, -0.5],
                "text": prompt,
                "finish_reason": "stop",
                "policy_version": version,
            }
            for prompt in request["ids"]
            for sample in range(request["n"])
        ]
        self.drew += request["ids"]
        ref = write_table(request["out"], rows, ROLLOUTS)
        result = GenerateResult(rollouts=ref, tokens=2 * len(rows), truncated=0, dtype="float32")
        return job | {"result": result.model_dump(mode="json")}


class Playing:
    """A pool over played replicas, as a service."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.played = {f"http://r{n}:8701": Played() for n in range(count)}
        settings = RolloutSettings(token=TOKEN, state_dir=folder / "state")  # type: ignore[arg-type]
        replicas = Replicas(self.played, Tokens(TOKEN), resolve=lambda url: [url], transports=self.played.__getitem__)
        by_host = {httpx.URL(url).host: played for url, played in self.played.items()}

        async def chat(request: httpx.Request) -> httpx.Response:
            return by_host[request.url.host].handle_request(request)

        app = create_pool(settings, replicas, transport=httpx.MockTransport(chat))
        self.client = TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})

    def policy(self, version: int) -> Policy:
        return Policy(run="demo", weights=Weights(version=version, uri="file:///w", sha256=str(version) * 64))

    def job(self, key: str, kind: str, request: dict[str, Any], wait: float = 30) -> dict[str, Any]:
        answer = self.client.put(f"/v1/jobs/{key}", json={"kind": kind, "request": request})
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = self.client.get(f"/v1/jobs/{key}", params={"wait": wait}).json()
        return job

    def publish(self, version: int) -> dict[str, Any]:
        return self.job(f"publish.{version}", "publish", {"policy": self.policy(version).model_dump()})

    def generate(self, version: int = 1, wait: float = 30) -> dict[str, Any]:
        rows = [
            {"prompt_id": f"p{i}", "problem_id": f"p{i}", "split": "train", "messages": "[]"}
            for i in range(PROMPT_COUNT)
        ]
        request = {
            "policy": self.policy(version).model_dump(),
            "prompts": write_table(f"file://{self.folder}/prompts.parquet", rows, PROMPTS).model_dump(),
            "n": 2,
            "sampling": {},
            "seed": 7,
            "out": f"file://{self.folder}/rollouts.parquet",
        }
        return self.job("demo.s0001.rollout.1", "generate", request, wait)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in life."""
    for module, name, value in (
        (replicas_module, "LOST_S", 0.05),
        (replicas_module, "REST_S", 0.3),
        (service_client, "BACKOFF_S", 0.001),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Playing]:
    playing = Playing(tmp_path, 3)
    with playing.client:
        yield playing


EVERY_ROLLOUT = [f"p{i}#{sample}" for i in range(PROMPT_COUNT) for sample in range(2)]


def rows_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    assert job["status"] == "succeeded", job
    return read_table(Ref.model_validate(job["result"]["rollouts"]))


def test_a_job_is_shared_and_its_bytes_do_not_tell_by_how_many(three: Playing, tmp_path: Path) -> None:
    for played in three.played.values():
        played.pause_s = 0.05
    assert three.publish(1)["status"] == "succeeded"
    job = three.generate()
    assert [row["rollout_id"] for row in rows_of(job)] == EVERY_ROLLOUT
    assert all(played.drew for played in three.played.values()), "each had some of it"
    said = {url: sorted(prompts) for url, prompts in job["result"]["replicas"].items()}
    assert said == {url: sorted(played.drew) for url, played in three.played.items()}, (
        "a prompt's samples stay together"
    )
    (tmp_path / "alone").mkdir()
    alone = Playing(tmp_path / "alone", 1)
    with alone.client:
        alone.publish(1)
        assert alone.generate()["result"]["rollouts"]["sha256"] == job["result"]["rollouts"]["sha256"]
    assert not local_path(f"file://{three.folder}/rollouts.parquet.shares").exists()


def test_a_replica_that_dies_in_the_middle_loses_its_share_to_others(three: Playing) -> None:
    three.publish(1)
    dying = three.played["http://r1:8701"]
    for played in three.played.values():
        played.pause_s = 0.05
    dying.dies_after = 1
    job = three.generate()
    rows = rows_of(job)
    assert dying.dead.is_set()
    assert [row["rollout_id"] for row in rows] == EVERY_ROLLOUT, "none lost, none twice"
    dying.dead.clear()
    dying.dies_after = 10**9
    assert three.publish(2)["status"] == "succeeded"
    assert dying.cancelled, "what it was lost for is not drawn when it is back"


def test_law_9_a_replica_that_missed_a_version_loads_it_before_it_draws(three: Playing) -> None:
    late, broken = three.played["http://r0:8701"], three.played["http://r2:8701"]
    three.publish(1)
    late.dead.set()
    broken.can_load = False
    assert three.publish(2)["status"] == "succeeded", "one has loaded it"
    late.dead.clear()
    time.sleep(0.35)
    for played in three.played.values():
        played.pause_s = 0.05
    assert {row["policy_version"] for row in rows_of(three.generate(2))} == {2}
    assert late.loaded == {"demo": 2}
    assert late.drew
    assert not broken.drew
    facts = three.client.get("/readyz").json()
    assert facts["runs"]["demo"]["desired"] == 2
    assert facts["runs"]["demo"]["loaded"]["http://r2:8701"] == 1


def test_a_version_that_none_can_load_is_no_version(three: Playing) -> None:
    three.publish(1)
    for played in three.played.values():
        played.can_load = False
    job = three.publish(2)
    assert job["status"] == "failed"
    assert "weights are broken" in job["error"]["message"]
    assert three.client.get("/readyz").json()["runs"]["demo"]["desired"] == 1


def test_law_9_rows_of_another_version_are_never_passed_on(three: Playing) -> None:
    three.publish(1)
    three.played["http://r0:8701"].serves = 9
    for played in three.played.values():
        played.pause_s = 0.05
    job = three.generate()
    assert job["status"] == "failed"
    assert "http://r0:8701 drew with version 9, not demo@1" in job["error"]["message"]


def test_law_12_full_replicas_are_waited_for(three: Playing) -> None:
    three.publish(1)
    for played in three.played.values():
        played.status = 503
    job = three.generate(wait=1)
    assert job["status"] == "running"
    assert "no replica can draw now" in job["waiting"]
    assert "http://r2:8701" in job["waiting"]
    for played in three.played.values():
        played.status = 200
    job = three.client.get("/v1/jobs/demo.s0001.rollout.1", params={"wait": 30}).json()
    assert [row["rollout_id"] for row in rows_of(job)] == EVERY_ROLLOUT


def test_a_burst_of_chat_goes_to_one_replica_and_a_dead_one_is_passed_over(three: Playing) -> None:
    three.publish(1)
    three.publish(2)
    asked: Counter[str] = Counter()
    for url, played in three.played.items():

        def counted(request: httpx.Request, url: str = url, real: Any = played.handle_request) -> httpx.Response:
            asked[url] += request.url.path == "/v1/chat/completions"
            answer: httpx.Response = real(request)
            return answer

        played.handle_request = counted  # type: ignore[method-assign]

    def ask(index: int) -> httpx.Response:
        burst = {"batch": "b", "batch_size": "4", "index": str(index)}
        body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "metadata": burst}
        return three.client.post("/v1/chat/completions", json=body)

    assert {ask(i).json()["model"] for i in range(4)} == {"demo@2"}, "the desired version, by its own name"
    assert sorted(asked.values()) == [4] or sorted(asked.values()) == [0, 0, 4]
    three.played[asked.most_common(1)[0][0]].dead.set()
    assert ask(0).json()["model"] == "demo@2"
    for played in three.played.values():
        played.dead.set()
    assert ask(0).status_code == 503


def test_a_name_with_several_addresses_is_a_replica_each(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", ("10.0.0.2", 8701)), (2, 1, 6, "", ("10.0.0.1", 8701)), (10, 1, 6, "", ("fe80::1", 8701))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    assert addresses("http://rollout:8701") == ["http://10.0.0.1:8701", "http://10.0.0.2:8701"]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found[:1])
    assert addresses("http://rollout:8701") == ["http://rollout:8701"], "one machine keeps its name"
