"""The service: REST in front, a job process behind, nothing left behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tiny_run import ROOT, TinyRun

from pmd.services.common.artifacts import local_path
from pmd.services.common.wire import Weights
from pmd.services.trainer.app import create_app
from pmd.services.trainer.job.process import ProcessId
from pmd.services.trainer.launchers.external import ExternalLauncher
from pmd.services.trainer.launchers.local import LocalLauncher
from pmd.services.trainer.settings import TrainerSettings

TOKEN = "t" * 32


class GivenUpError(Exception):
    """Nobody waits for the step any more."""


def settings(folder: Path) -> TrainerSettings:
    return TrainerSettings(token=TOKEN, state_dir=folder)


def client(folder: Path) -> TestClient:
    return TestClient(create_app(settings(folder)), headers={"Authorization": f"Bearer {TOKEN}"})


def job_process(folder: Path) -> ProcessId:
    path = folder / "trainer" / "runs" / "tiny" / "process.json"
    deadline = time.monotonic() + 30
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    return ProcessId.model_validate_json(path.read_text())


def gone(process: ProcessId, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    return not process.alive


def test_a_train_job_exports_weights_and_its_process_ends_with_the_service(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    with client(tmp_path) as http:
        ready = http.get("/readyz").json()
        assert ready["launcher"] == "local"
        assert ready["deepspeed"]
        assert http.get("/v1/runs/tiny/weights").json() == {"run": "tiny", "weights": []}
        for version in (0, 1):
            body = {"kind": "train", "request": run.request(version).model_dump(mode="json")}
            job = http.put(f"/v1/jobs/tiny.s{version}", json=body).json()
            while job["status"] in ("queued", "running"):
                job = http.get(f"/v1/jobs/tiny.s{version}?wait=20").json()
            assert job["status"] == "succeeded", job
        published = http.get("/v1/runs/tiny/weights").json()["weights"]
        assert [weights["version"] for weights in published] == [1, 2]
        assert job["result"]["weights"] == published[-1]
        conflict = http.put(
            "/v1/jobs/tiny.other",
            json={"kind": "train", "request": run.request(1, lr_scale=0.5).model_dump(mode="json")},
        ).json()
        while conflict["status"] in ("queued", "running"):
            conflict = http.get("/v1/jobs/tiny.other?wait=20").json()
        assert conflict["status"] == "failed"
        assert "can't be redone" in conflict["error"]["message"]
        assert not conflict["error"]["retryable"]
        process = job_process(tmp_path)
        assert process.alive
    assert gone(process)


@pytest.mark.chaos
def test_after_kill_9_of_the_service_the_next_one_finishes_the_step(tmp_path: Path, base: Weights) -> None:
    run = TinyRun(tmp_path, base)
    body = {"kind": "train", "request": run.request(0).model_dump(mode="json")}
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from test_trainer_app import client; import json\n"
        "with client(Path(sys.argv[2])) as http:\n"
        "    http.put('/v1/jobs/tiny.s0', json=json.loads(sys.argv[3])); time.sleep(60)\n"
    )
    here = str(Path(__file__).parent)
    service = subprocess.Popen([sys.executable, "-c", script, here, str(tmp_path), json.dumps(body)], cwd=ROOT)
    process = job_process(tmp_path)
    os.kill(service.pid, signal.SIGKILL)
    service.wait()
    with client(tmp_path) as http:  # recovers the job by itself
        job = http.get("/v1/jobs/tiny.s0").json()
        while job["status"] in ("queued", "running"):
            job = http.get("/v1/jobs/tiny.s0?wait=20").json()
        assert job["status"] == "succeeded", job
        assert gone(process)
        assert job_process(tmp_path) != process


def test_without_its_packages_the_service_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    with client(tmp_path) as http:
        monkeypatch.setattr(importlib.metadata, "version", version)
        answer = http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["title"] == "torch is not installed; install the extra 'trainer'"


def test_the_service_imports_no_torch() -> None:
    code = "import pmd.services.trainer.app, sys; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_step_that_was_given_up_may_be_replaced_until_it_is_applied(tmp_path: Path, base: Weights) -> None:
    def give_up() -> None:
        raise GivenUpError

    run = TinyRun(tmp_path, base)
    launcher = ExternalLauncher(tmp_path)
    for request in (run.request(0), run.request(0, lr_scale=0.5)):
        with pytest.raises(GivenUpError):
            launcher.train(request, give_up)
        assert launcher.spool("tiny").request(0) == request


def test_a_run_is_warmed_before_its_first_step_and_released_after_and_goes_on_to_the_same_weights(
    tmp_path: Path, base: Weights
) -> None:
    """Prepared, released half-way, and resumed by a fresh process, it makes what an undisturbed run makes."""

    def trained(http: TestClient, run: TinyRun, version: int) -> str:
        body = {"kind": "train", "request": run.request(version).model_dump(mode="json")}
        http.put(f"/v1/jobs/tiny.s{version}", json=body)
        while (job := http.get(f"/v1/jobs/tiny.s{version}?wait=20").json())["status"] in ("queued", "running"):
            pass
        weights = Weights.model_validate(job["result"]["weights"])
        return (local_path(weights.uri) / "model.safetensors").read_bytes().hex()

    calm = tmp_path / "calm"
    calm.mkdir()
    with client(calm) as http:
        undisturbed = [trained(http, TinyRun(calm, base), version) for version in (0, 1)]
    run = TinyRun(tmp_path, base)
    with client(tmp_path) as http:
        for _ in range(2):
            assert http.put("/v1/runs/tiny/prepare").status_code == 200
        warm = job_process(tmp_path)
        assert warm.alive
        first = trained(http, run, 0)
        assert job_process(tmp_path) == warm, "the step found it"
        for _ in range(2):
            assert http.put("/v1/runs/tiny/release").status_code == 200
        assert not warm.alive
        assert [first, trained(http, run, 1)] == undisturbed
        assert job_process(tmp_path) != warm


def test_no_more_processes_are_warmed_than_runs_may_train(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path, nproc=1, idle_s=60.0)
    for run in ("a", "b", "c"):
        launcher.prepare(run, 1)
    assert [launcher.spool(run).process_file.is_file() for run in ("a", "b", "c")] == [True, False, False]
    launcher.close()


def test_a_step_that_is_given_up_ends_its_process(tmp_path: Path, base: Weights) -> None:
    launcher = LocalLauncher(tmp_path, nproc=1, idle_s=60.0)
    process_file = launcher.spool("tiny").process_file

    def give_up() -> None:
        if process_file.is_file():
            raise GivenUpError

    request = TinyRun(tmp_path, base).request(0)
    with pytest.raises(GivenUpError):
        launcher.train(request, give_up)
    assert not ProcessId.model_validate_json(process_file.read_text()).alive
    assert launcher.spool("tiny").open(0) == request


def test_a_disk_that_takes_no_step_is_a_failure_that_may_pass(tmp_path: Path, base: Weights) -> None:
    body = {"kind": "train", "request": TinyRun(tmp_path, base).request(0).model_dump(mode="json")}
    with client(tmp_path) as http:
        (tmp_path / "trainer" / "runs").write_text("not a folder")
        http.put("/v1/jobs/tiny.s0", json=body)
        error = http.get("/v1/jobs/tiny.s0?wait=20").json()["error"]
    assert "runs/tiny" in error["message"]
    assert error["retryable"]


def test_a_run_that_is_deleted_leaves_nothing_and_none_is_taken_from_who_still_trains(tmp_path: Path) -> None:
    spool = tmp_path / "trainer" / "runs" / "tiny"
    with client(tmp_path) as http:
        (spool / "checkpoints" / "v0000001").mkdir(parents=True)
        (spool / "checkpoints" / "v0000001" / "rank0of1.pt").write_bytes(b"x" * 1000)
        with http.app.state.launcher.spool("tiny").lock(0.0):  # type: ignore[attr-defined]
            busy = http.delete("/v1/runs/tiny")
        assert (busy.status_code, "must end first" in busy.json()["title"]) == (503, True)
        assert (spool / "checkpoints" / "v0000001").is_dir()
        freed = http.delete("/v1/runs/tiny").json()
        assert (freed["run"], freed["bytes"] >= 1000, spool.exists()) == ("tiny", True, False)
        assert http.delete("/v1/runs/tiny").json() == {"run": "tiny", "bytes": 0}
