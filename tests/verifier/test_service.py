"""The service over HTTP: verdicts now, verdicts by job, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from pmd.services.common.artifacts import read_table, write_problems, write_table
from pmd.services.common.columns import ROLLOUTS
from pmd.services.common.requests import VerifyRequest
from pmd.services.common.wire import Message, Problem, Ref
from pmd.services.verifier.app import create_app
from pmd.services.verifier.kinds import BUILT_IN
from pmd.services.verifier.sandbox import tier
from pmd.services.verifier.sandbox.job import SandboxAway
from pmd.services.verifier.sandbox.pool import Pool
from pmd.services.verifier.settings import VerifierSettings
from pmd.services.verifier.verification import BatchVerifier, Submission
from tests.limits import FullDisk
from tests.verifier.conftest import RIGHT, SOLVE_SPEC, Sandbox, fenced

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = VerifierSettings(
        token=TOKEN,
        state_dir=tmp_path_factory.mktemp("state"),
        sandbox_workers=2,
        sandbox_memory_mb=2048,
        max_request_mb=1,
    )
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def test_ready_says_which_isolation_is_in_force(http: TestClient, sandbox: Sandbox) -> None:
    facts = http.get("/readyz").json()
    assert facts["sandbox_tier"] == sandbox.tier.name
    assert facts["sandbox_tier"] in ("T1", "T2")
    assert facts["sandbox"]["escaped"] == []
    assert facts["kinds"] == list(BUILT_IN)


def test_verdicts_come_in_the_order_of_the_items(http: TestClient, sandbox: Sandbox) -> None:
    choice = {"kind": "choice", "answer": "B"}
    items = [
        {"verifier": SOLVE_SPEC, "completion": fenced(RIGHT)},
        {"verifier": choice, "completion": "<answer>C</answer>"},
        {"verifier": SOLVE_SPEC, "completion": fenced("def solve(a): return [min(a)]")},
        {"verifier": SOLVE_SPEC, "completion": "no program"},
    ]
    verdicts = http.post("/v1/verify", json={"items": items}).raise_for_status().json()["verdicts"]
    assert [v["outcome"] for v in verdicts] == ["passed", "failed", "failed", "format"]
    assert [v["sandbox_tier"] for v in verdicts] == [sandbox.tier.name, "", sandbox.tier.name, ""]
    assert verdicts[2]["feedback"] == "Input: [5]\nOutput: [5]\nExpected: [5, 5]"
    assert verdicts[3]["feedback"] == "No code block found."


def test_a_wrong_spec_is_422_and_names_the_field(http: TestClient) -> None:
    items = [{"verifier": {"kind": "choice", key: "B"}, "completion": ""} for key in ("answer", "answr")]
    answer = http.post("/v1/verify", json={"items": items})
    assert answer.status_code == 422
    named = {error["field"]: error["message"] for error in answer.json()["errors"]}
    assert named["items.1.verifier.answr"] == "unknown key 'answr'; did you mean 'answer'?"


def test_a_spec_that_wants_more_memory_than_there_is_is_422(http: TestClient) -> None:
    spec = {**SOLVE_SPEC, "limits": {"memory_mb": 8192}}
    answer = http.post("/v1/verify", json={"items": [{"verifier": spec, "completion": ""}]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "items.0.verifier.limits.memory_mb"


def test_specs_are_checked_without_a_completion(http: TestClient) -> None:
    call = {"kind": "code", "fn_name": "f", "tests": [{"input": "1", "output": "NaN"}]}
    large = {**SOLVE_SPEC, "limits": {"memory_mb": 8192}}
    specs = [{"kind": "exct"}, {"kind": "exact", "answer": "1"}, SOLVE_SPEC, call, {}, large]
    refused = http.post("/v1/specs:validate", json={"specs": specs}).raise_for_status().json()["refused"]
    assert [spec["index"] for spec in refused] == [0, 3, 4, 5]
    assert refused[0]["errors"][0]["field"] == "kind"
    assert "did you mean 'exact'?" in refused[0]["errors"][0]["message"]
    assert refused[3]["errors"][0]["field"] == "limits.memory_mb"
    solved = {**SOLVE_SPEC, "solution": fenced(RIGHT)}
    wrong = {**SOLVE_SPEC, "solution": fenced("def solve(a): return a")}
    proven = http.post("/v1/specs:validate", json={"specs": [solved, wrong]}).raise_for_status().json()["refused"]
    assert [(spec["index"], spec["errors"][0]["field"]) for spec in proven] == [(1, "solution")]
    answer = http.post("/v1/verify", json={"items": [{"verifier": call, "completion": "x"}]})
    assert [error["field"] for error in answer.json()["errors"]] == ["items.0.verifier"]
    unwritable = b'{"specs": [{"kind": "exact", "answer": "\\ud800"}]}'
    answer = http.post("/v1/specs:validate", content=unwritable, headers={"content-type": "application/json"})
    assert answer.json()["refused"][0]["errors"][0]["field"] == "answer"


def test_a_huge_body_is_refused_before_it_is_read(http: TestClient) -> None:
    assert http.post("/v1/verify", content=b"x" * (2 << 20)).status_code == 413


def test_law_11_an_unknown_query_key_is_refused(http: TestClient) -> None:
    answer = http.post("/v1/verify", json={"items": []}, params={"spare": "true"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.spare")


def test_without_the_token_nothing_is_judged(http: TestClient) -> None:
    assert http.post("/v1/verify", json={"items": []}, headers={"Authorization": "Bearer no"}).status_code == 401


def rollout(problem: str, split: str, sample: int, text: str) -> dict[str, Any]:
    return {
        "rollout_id": f"{problem}#{sample}",
        "prompt_id": problem,
        "problem_id": problem,
        "split": split,
        "sample": sample,
        "prompt_ids": [1],
        "token_ids": [2],
        "logprobs": [0.0],
        "text": text,
        "finish_reason": "stop",
        "policy_version": 0,
    }


def test_job_verify_judges_an_artifact(http: TestClient, tmp_path: Path) -> None:
    problems = [
        Problem(id="code-1", messages=[Message(role="user", content="q")], verifier=SOLVE_SPEC),
        Problem(
            id="choice-1",
            messages=[Message(role="user", content="q")],
            verifier={"kind": "choice", "answer": "B"},
            split="test",
        ),
    ]
    rows = [rollout("code-1", "train", i, fenced(RIGHT if i % 2 else "def solve(a): return 0")) for i in range(4)]
    rows.append(rollout("choice-1", "test", 0, "<answer>B</answer>"))
    request = VerifyRequest(
        rollouts=write_table(f"file://{tmp_path}/rollouts.parquet", rows, ROLLOUTS),
        problems=write_problems(f"file://{tmp_path}/problems.parquet", problems),
        out=f"file://{tmp_path}/verdicts.parquet",
    )
    body = {"kind": "verify", "request": request.model_dump(mode="json")}
    http.put("/v1/jobs/run.s0001.verify.0", json=body).raise_for_status()
    job = http.get("/v1/jobs/run.s0001.verify.0", params={"wait": 20}).json()
    assert job["status"] == "succeeded", job
    result = job["result"]
    assert result["outcomes"] == {"passed": 3, "failed": 2}
    assert result["splits"]["train"]["pass_rate"] == 0.5
    assert result["splits"]["test"]["pass_rate"] == 1.0
    verdicts = read_table(Ref(**result["verdicts"]))
    assert [v["rollout_id"] for v in verdicts] == [r["rollout_id"] for r in rows]
    assert [v["outcome"] for v in verdicts] == ["failed", "passed", "failed", "passed", "passed"]


def test_law_12_a_full_disk_is_waited_for_by_name_and_nothing_is_judged_twice(
    http: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    plain = BatchVerifier.verify

    def counted(*args: Any, **kwargs: Any) -> Any:
        verified.append(1)
        return plain(*args, **kwargs)

    monkeypatch.setattr(BatchVerifier, "verify", counted)
    spec = {"kind": "exact", "answer": "1"}
    problems = [Problem(id="p", messages=[Message(role="user", content="q")], verifier=spec)]
    request = VerifyRequest(
        rollouts=write_table(f"file://{tmp_path}/rollouts.parquet", [rollout("p", "train", 0, "1")], ROLLOUTS),
        problems=write_problems(f"file://{tmp_path}/problems.parquet", problems),
        out=f"file://{tmp_path}/out/verdicts.parquet",
    )
    disk = FullDisk(tmp_path / "out", monkeypatch)
    http.put("/v1/jobs/full.1", json={"kind": "verify", "request": request.model_dump(mode="json")})
    while disk.met < 3:
        time.sleep(0.01)
    job = http.get("/v1/jobs/full.1").json()
    assert (job["status"], job["error"]) == ("running", None)
    assert f"{tmp_path}/out/verdicts.parquet" in job["waiting"]
    disk.emptied()
    assert http.get("/v1/jobs/full.1", params={"wait": 20}).json()["result"]["outcomes"] == {"passed": 1}
    assert len(verified) == 1


def test_law_12_a_sandbox_that_does_not_start_judges_nothing_and_is_waited_for(
    http: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refused = Pool.run, []

    def away(pool: Pool, job: Any) -> Any:
        if len(refused) < 8:
            refused.append(1)
            raise SandboxAway("the sandbox's zygote could not start: Cannot allocate memory")
        return plain(pool, job)

    monkeypatch.setattr(Pool, "run", away)
    problems = [Problem(id="p", messages=[Message(role="user", content="q")], verifier=SOLVE_SPEC)]
    new = RIGHT + "\n# a program that was never judged before"
    request = VerifyRequest(
        rollouts=write_table(f"file://{tmp_path}/rollouts.parquet", [rollout("p", "train", 0, fenced(new))], ROLLOUTS),
        problems=write_problems(f"file://{tmp_path}/problems.parquet", problems),
        out=f"file://{tmp_path}/verdicts.parquet",
    )
    http.put("/v1/jobs/sandbox.1", json={"kind": "verify", "request": request.model_dump(mode="json")})
    job = http.get("/v1/jobs/sandbox.1", params={"wait": 20}).json()
    assert job["result"]["outcomes"] == {"passed": 1}, "and no infra_error"
    assert len(refused) == 8


def test_a_wrong_spec_among_right_ones_spoils_only_its_own_rollouts(http: TestClient, tmp_path: Path) -> None:
    specs = {"right": {"kind": "exact", "answer": "1"}, "wrong": {"kind": "exct", "answer": "1"}, "none": {}}
    ask = [Message(role="user", content="q")]

    def judge(key: str, *names: str) -> dict[str, Any]:
        request = VerifyRequest(
            rollouts=write_table(
                f"file://{tmp_path}/r.parquet", [rollout(n, "train", 0, "1") for n in names], ROLLOUTS
            ),
            problems=write_problems(
                f"file://{tmp_path}/p.parquet", [Problem(id=n, messages=ask, verifier=specs[n]) for n in specs]
            ),
            out=f"file://{tmp_path}/v.parquet",
        )
        body = {"kind": "verify", "request": request.model_dump(mode="json")}
        http.put(f"/v1/jobs/{key}", json=body).raise_for_status()
        return dict(http.get(f"/v1/jobs/{key}", params={"wait": 20}).json())

    job = judge("mixed", "wrong", "right", "none")
    assert job["status"] == "succeeded", job
    assert job["result"]["outcomes"] == {"passed": 1, "infra_error": 2}
    spoilt, judged, _ = read_table(Ref(**job["result"]["verdicts"]))
    assert "unknown kind 'exct'; did you mean 'exact'?" in spoilt["error"]
    assert judged["outcome"] == "passed"
    job = judge("all-wrong", "wrong", "none")
    assert (job["status"], job["error"]["retryable"]) == ("failed", False), "nothing is judged: somebody must look"
    assert "did you mean 'exact'?" in job["error"]["message"]


def test_equal_programs_run_once_whatever_was_said_around_them(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    run = Pool.run

    def counted(self: Pool, job: Any) -> Any:
        runs.append(job.input)
        return run(self, job)

    monkeypatch.setattr(Pool, "run", counted)
    batch = [Submission(SOLVE_SPEC, f"Thought {i}.\n{fenced(RIGHT)}") for i in range(64)]
    assert {v.outcome for v in sandbox.verifier.verify(batch)} == {"passed"}
    assert runs == ["[5]", "[3, 1, 4, 2]", "[30, 10, 40, 20]"]


def test_what_passed_or_failed_is_not_run_again_in_a_later_batch_but_a_limit_is(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    run = Pool.run

    def counted(self: Pool, job: Any) -> Any:
        runs.append(job.source)
        return run(self, job)

    monkeypatch.setattr(Pool, "run", counted)
    verifier = sandbox.verifier
    programs = [RIGHT, "def solve(a): return 0", "def solve(a):\n    while True: pass"]
    batch = [Submission(SOLVE_SPEC, fenced(program)) for program in programs]
    first = verifier.verify(batch)
    assert [v.outcome for v in first] == ["passed", "failed", "timeout"]
    ran = len(runs)
    again = verifier.verify([Submission(SOLVE_SPEC, "Again. " + fenced(program)) for program in reversed(programs)])
    assert again[:0:-1] == first[:2], "the same verdicts, feedback and all"
    assert {source.strip() for source in runs[ran:]} == {programs[2]}
    other = SOLVE_SPEC | {"tests": [{"input": "[5]", "output": "[5, 6]"}]}
    assert verifier.verify([Submission(other, fenced(RIGHT))])[0].outcome == "failed", "other tests, another verdict"


def test_a_training_step_of_mostly_equal_programs_costs_half_a_second(sandbox: Sandbox) -> None:
    programs = [RIGHT, *(f"def solve(a): return [{i}]" for i in range(31))]
    batch = [Submission(SOLVE_SPEC, fenced(programs[i % 32])) for i in range(256)]
    best = min(sum(v.cpu_ms for v in sandbox.verifier.verify(batch)[:32]) for _ in range(3))
    assert best < 500, "CPU, not wall: a busy machine is no slower program"


def test_a_machine_that_can_not_isolate_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tier.PROBES, "compute", "1 + 1")
    with pytest.raises(tier.SandboxUnavailable, match=r"escape .*\(compute\).*PMD_SANDBOX_INSECURE"):
        tier.open_sandbox(1, memory_mb=512, insecure=False)
    pool, found = tier.open_sandbox(1, memory_mb=512, insecure=True)
    pool.close()
    assert (found.name, found.escaped) == ("T3-insecure", ("compute",))


OLD_KERNEL = """
import ctypes, struct
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
landlock_create_ruleset, enosys, allow = 444, 0x00050000 | 38, 0x7FFF0000
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *op) for op in (
    (LOAD, 0, 0, 0), (EQUAL, 0, 1, landlock_create_ruleset), (RETURN, 0, 0, enosys), (RETURN, 0, 0, allow),
)))
libc = ctypes.CDLL(None)
program = struct.pack("@HxxxxxxP", 4, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
from pmd.services.verifier.sandbox.tier import SandboxUnavailable, open_sandbox
try:
    open_sandbox(1, memory_mb=512, insecure=False)
except SandboxUnavailable as error:
    print(error)
pool, tier = open_sandbox(1, memory_mb=512, insecure=True)
pool.close()
print(tier)
"""


def test_a_kernel_without_landlock_is_refused_and_insecure_says_what_escapes() -> None:
    done = subprocess.run([sys.executable, "-c", OLD_KERNEL], capture_output=True, text=True, timeout=60, check=True)
    refusal, found = done.stdout.splitlines()
    assert "offers no Landlock" in refusal
    assert "PMD_SANDBOX_INSECURE" in refusal
    assert "T3-insecure" in found
    assert "read outside the library" in found
    assert "fork" not in found, "seccomp still holds"


def descendants(pid: int) -> set[int]:
    """Processes below `pid`."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            for child in (task / "children").read_text().split():
                found |= {int(child)} | descendants(int(child))
    return found


@pytest.mark.parametrize(("how", "cpu_s"), [(signal.SIGKILL, 30), (signal.SIGTERM, 2)])
def test_a_killed_service_leaves_no_process(how: signal.Signals, cpu_s: int, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"PMD_TOKEN": TOKEN, "PMD_STATE_DIR": str(tmp_path), "PMD_SANDBOX_WORKERS": "2", "PATH": os.environ["PATH"]}
    service = subprocess.Popen(
        [sys.executable, "-m", "pmd.services.verifier", "--port", str(port)], env=env, stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        wait_until(lambda: ready(base), 30)
        spin = {"verifier": {**SOLVE_SPEC, "limits": {"cpu_s": cpu_s}}, "completion": fenced("while True: pass")}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{base}/v1/verify", json={"items": [spin]}, headers=headers, timeout=0.3)
        idle = 4 if httpx.get(f"{base}/readyz").json()["sandbox_tier"] == "T2" else 2
        wait_until(lambda: len(descendants(service.pid)) > idle, 10)  # zygotes, bubblewrap above each, and a child
        below = descendants(service.pid)
        service.send_signal(how)
        service.wait(15)
        wait_until(lambda: not any(alive(pid) for pid in below), 5)
    finally:
        service.kill()
        service.wait()


def ready(base: str) -> bool:
    try:
        return httpx.get(f"{base}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def alive(pid: int) -> bool:
    """Runs, or is a zombie that nobody in a container without init reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
