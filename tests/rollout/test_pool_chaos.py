"""Three real replicas of the pocket model behind a pool; one is killed -9 in the middle of a job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pmd
from pmd.services.common.artifacts import read_table, seal_weights, write_table
from pmd.services.common.client import ServiceClient, ServiceUnavailable
from pmd.services.common.columns import PROMPTS
from pmd.services.common.jobs import JobStatus
from pmd.services.common.requests import GenerateRequest, GenerateResult, PublishRequest
from pmd.services.common.tokens import Tokens
from pmd.services.common.wire import Policy, Sampling

TOKEN = "test-token-0123456789"
BASE = Path(pmd.__file__).parent / "examples" / "pocket" / "base"
PROMPT_COUNT = 48
SAMPLES = 8


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def start(folder: Path, port: int, **settings: str) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PMD_")}
    environment |= {"PMD_TOKEN": TOKEN, "PMD_STATE_DIR": str(folder / str(port)), "OMP_NUM_THREADS": "1", **settings}
    argv = [sys.executable, "-m", "pmd.services.rollout", "--port", str(port)]
    return subprocess.Popen(argv, env=environment, stderr=(folder / f"{port}.log").open("wb"))


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[ServiceClient, dict[str, subprocess.Popen[bytes]]]]:
    """The pool's client, ready, and its replicas by URL."""
    *ports, front = free_ports(4)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    processes = [start(tmp_path, port) for port in ports]
    processes.append(start(tmp_path, front, PMD_ROLLOUT_REPLICAS=",".join(urls)))
    client = ServiceClient(f"http://127.0.0.1:{front}", Tokens(TOKEN))
    try:
        until = time.monotonic() + 400
        while True:
            try:
                replicas = client.call("GET", "/readyz")["replicas"]
                if not any("error" in facts for facts in replicas.values()):
                    break
            except ServiceUnavailable:
                pass
            assert time.monotonic() < until, "never ready"
            time.sleep(0.5)
        yield client, dict(zip(urls, processes, strict=False))
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_law_6_one_of_three_replicas_is_killed_in_the_middle_of_a_job(
    tmp_path: Path, services: tuple[ServiceClient, dict[str, subprocess.Popen[bytes]]]
) -> None:
    client, replicas = services
    base = tmp_path / "v0"
    base.mkdir()
    for path in BASE.iterdir():
        if path.is_file():
            (base / path.name).symlink_to(path)
    policy = Policy(run="demo", weights=seal_weights(base, 0, {}))
    assert client.run("publish", "publish", PublishRequest(policy=policy), 300).status is JobStatus.SUCCEEDED
    rows = [
        {
            "prompt_id": f"p{i}",
            "problem_id": f"p{i}",
            "split": "train",
            "messages": json.dumps([{"role": "user", "content": f"what is {i} and {i}"}]),
        }
        for i in range(PROMPT_COUNT)
    ]
    asked = GenerateRequest(
        policy=policy,
        prompts=write_table(f"file://{tmp_path}/prompts.parquet", rows, PROMPTS),
        n=SAMPLES,
        sampling=Sampling(max_tokens=64),
        seed=3,
        out=f"file://{tmp_path}/rollouts.parquet",
    )
    client.submit("killed", "generate", asked)
    shares = tmp_path / "rollouts.parquet.shares"
    while not (shares.is_dir() and any(shares.glob("*.parquet"))):  # the first share has been drawn
        time.sleep(0.02)
    victim, process = next(iter(replicas.items()))
    process.send_signal(signal.SIGKILL)
    job = client.poll("killed", 20)
    while job.status is JobStatus.RUNNING:
        job = client.poll("killed", 20)
    assert job.status is JobStatus.SUCCEEDED, job.error
    result = GenerateResult.model_validate(job.result)
    drawn = read_table(result.rollouts)
    assert [row["rollout_id"] for row in drawn] == [f"p{i}#{s}" for i in range(PROMPT_COUNT) for s in range(SAMPLES)]
    assert {row["policy_version"] for row in drawn} == {0}
    assert sum(len(prompts) for url, prompts in result.replicas.items() if url != victim) >= PROMPT_COUNT / 2
    whole = client.run("whole", "generate", asked.model_copy(update={"out": f"file://{tmp_path}/again.parquet"}), 600)
    again = GenerateResult.model_validate(whole.result)
    assert victim not in again.replicas, "the dead one draws nothing"
    assert again.rollouts.sha256 == result.rollouts.sha256, "who drew a share changes no byte of it"
