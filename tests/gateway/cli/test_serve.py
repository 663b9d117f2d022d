"""`pmd serve`: an endpoint for OpenAI's clients, from a folder or from a run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pmd.gateway.cli.client import CliError
from pmd.gateway.cli.serve import base_of
from pmd.services.common import outgoing
from pmd.services.common.adapters import ADAPTER_OF
from pmd.services.common.artifacts import seal_weights
from tests.gateway.cli.conftest import Api, Pmd
from tests.gateway.cli.test_export import RECIPE
from tests.rollout.conftest import make_model, make_tokenizer
from tests.rollout.conftest import make_policy as make_policy  # noqa: PLC0414 -- a fixture

KEY = "a-key-of-our-clients"
TURN = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as anybody's: no manifest, no run."""
    made = tmp_path_factory.mktemp("models") / "little"
    make_model(1).save_pretrained(made)
    make_tokenizer().save_pretrained(made)
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """`pmd serve FOLDER`, once it says that it answers."""
    port = free_port()
    argv = [sys.executable, "-m", "pmd.gateway.cli", "serve", str(folder), "--port", str(port), *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PMD_")}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        said = [process.stdout.readline(), process.stdout.readline()]
        assert f"is served at http://127.0.0.1:{port}/v1" in said[-1], (said, process.stderr and process.stderr.read())
        with outgoing.inside(base_url=f"http://127.0.0.1:{port}/v1", timeout=30) as client:
            until = time.monotonic() + 10
            while client.get("/models").status_code >= 500 and time.monotonic() < until:
                time.sleep(0.05)
            yield client, process
    finally:
        process.kill()
        process.communicate()


def greedy(folder: Path, tokens: int) -> str:
    """What transformers alone answers to `TURN`."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(TURN, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    drawn = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(drawn[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.slow
def test_a_folder_answers_as_transformers_does_and_ctrl_c_ends_it(folder: Path) -> None:
    with served(folder, "--engine", "transformers") as (client, process):
        assert "little" in [model["id"] for model in client.get("/models").json()["data"]]
        body: dict[str, Any] = {"model": "little", "messages": TURN, "temperature": 0, "max_tokens": 16}
        answer = client.post("/chat/completions", json=body, headers={"Authorization": "Bearer EMPTY"}).json()
        assert answer["choices"][0]["message"]["content"] == greedy(folder, 16)
        with client.stream("POST", "/chat/completions", json=body | {"stream": True}) as stream:
            events = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
        assert events[-1] == "[DONE]"
        pieces = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
        assert "".join(pieces) == answer["choices"][0]["message"]["content"]
        wrong = client.post("/chat/completions", json=body | {"model": "litle"})
        assert wrong.status_code == 404
        assert "little" in wrong.text
        assert client.put("/jobs/x", json={}).status_code in {401, 404}, "no work of a run is taken"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, ""), output


@pytest.mark.slow
def test_a_key_is_asked_for_and_stands_on_no_command_line(folder: Path) -> None:
    with served(folder, "--engine", "transformers", "--api-key", KEY) as (client, process):
        assert client.get("/models").status_code == 401
        assert client.get("/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert KEY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_an_export_answers_as_what_was_published(api: Api, pmd: Pmd, make_policy: Any, tmp_path: Path) -> None:
    weights = make_policy(version=1).weights
    api.answers["GET /v1/runs/demo/checkpoints"] = [{"step": 1, "weights": weights.model_dump(), "evaluation": {}}]
    api.answers["GET /v1/runs/demo/report"] = {"recipe": RECIPE, "run": {"id": "demo-1a2b"}}
    for dtype, expected in (("base", torch.float32), ("bf16", torch.bfloat16)):
        assert pmd("export", "demo", "--to", str(tmp_path / dtype), "--dtype", dtype).exit_code == 0
        assert AutoModelForCausalLM.from_pretrained(tmp_path / dtype).dtype is expected
    assert greedy(tmp_path / "base", 16) == greedy(Path(weights.uri.removeprefix("file://")), 16)


Started = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What would take the process's place."""
    found: Started = []
    monkeypatch.setattr(os, "execve", lambda _, argv, environment: found.append((argv[3:], environment)))
    return found


def test_a_run_is_served_at_the_version_that_is_named(
    api: Api, pmd: Pmd, make_policy: Any, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [{"step": v, "weights": make_policy(version=v).weights.model_dump(), "evaluation": {}} for v in (1, 2)]
    api.answers |= {"GET /v1/runs/demo": {"id": "demo-1a2b"}, "GET /v1/runs/demo/checkpoints": kept}
    monkeypatch.setenv("PMD_ROLLOUT_DTYPE", "bf16")
    for target, version in (("demo", 2), ("demo@1", 1)):
        result = pmd("serve", target, "--engine", "transformers", "--port", str(free_port()))
        assert result.exit_code == 0, result.output
        argv, environment = started[-1]
        assert argv[:4] == [
            "pmd.services.rollout.endpoint",
            make_policy(version=version).weights.uri.removeprefix("file://"),
            "--name",
            "demo-1a2b",
        ]
        assert environment["PMD_ROLLOUT_DTYPE"] == "bf16"
        assert {k for k in environment if k.startswith("PMD_")} == {"PMD_ROLLOUT_DTYPE"}, "the endpoint reads no other"
    assert "there are 1, 2" in pmd("serve", "demo@7", "--engine", "transformers").stderr
    assert "a version is a number" in pmd("serve", "demo@new", "--engine", "transformers").stderr


def test_vllm_gets_the_folder_and_its_key_by_the_environment(
    pmd: Pmd, folder: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert pmd("serve", str(folder), "--port", str(free_port()), "--api-key", KEY).exit_code == 0
    argv, environment = started[0]
    assert argv[:5] == ["vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "little"]
    assert environment["VLLM_API_KEY"] == KEY
    assert KEY not in argv


def test_what_can_not_be_served_says_cause_and_fix(
    pmd: Pmd, folder: Path, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = {
            (str(folder), "--engine", "transformers", "--port", port): f"127.0.0.1:{port} can't be listened on",
            (str(folder), "--host", "::"): "give --api-key",
            (str(folder), "--api-key", "short"): "16 or more",
            (str(tmp_path),): "holds no config.json",
            ("./nowhere",): "holds no config.json",
        }
        for words, said in cases.items():
            result = pmd("serve", *words)
            assert result.exit_code != 0
            assert said in result.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install vllm" in pmd("serve", str(folder), "--engine", "vllm").stderr
    assert "pmd[rollout]" in pmd("serve", str(folder)).stderr
    assert started == []


def test_a_published_adapter_is_served_with_the_base_that_its_manifest_names_by_hash(tmp_path: Path) -> None:
    base, adapter = tmp_path / "v0", tmp_path / "v2"
    for each in (base, adapter):
        each.mkdir()
    (base / "config.json").write_text("{}")
    sealed = seal_weights(base, 0, {})
    (base / "adapter_config.json").write_text("{}")  # a stray one
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    seal_weights(adapter, 2, {ADAPTER_OF: sealed.model_dump()})
    assert (base_of(base), base_of(adapter)) == (None, base)
    (base / "config.json").write_text("{ }")
    with pytest.raises(CliError, match=r"is an adapter of file://.*: .* is not the file that its manifest lists"):
        base_of(adapter)


def test_an_adapter_is_served_with_its_base(
    pmd: Pmd, folder: Path, tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "learnt"
    adapter.mkdir()
    config = {"base_model_name_or_path": str(folder), "revision": None, "r": 12}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    port = str(free_port())
    assert pmd("serve", str(adapter), "--engine", "transformers", "--port", port).exit_code == 0
    assert started[0][0][1:] == [
        *(str(adapter), "--name", "learnt", "--host", "127.0.0.1", "--port", port, "--base", str(folder))
    ]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert pmd("serve", str(adapter), "--port", port).exit_code == 0
    assert started[1][0][1:9] == [
        *("--model", str(folder), "--served-model-name", "learnt-base", "--enable-lora", "--max-lora-rank", "16"),
        "--lora-modules",
    ]
    assert f"learnt={adapter}" in started[1][0]
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
    refused = pmd("serve", str(adapter), "--port", port)
    assert "is an adapter of /gone" in refused.stderr
    assert "--merge" in refused.stderr
