"""A random Qwen3 of 60 thousand parameters with a byte-level tokenizer, made here: nothing is downloaded."""

from __future__ import annotations

import json
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads; see app.start_engine
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pmd.services.common import probe
from pmd.services.common.artifacts import seal_weights, write_table
from pmd.services.common.columns import CONTEXTS, PROMPTS
from pmd.services.common.wire import Policy, Ref, Weights
from pmd.services.rollout.app import create_app
from pmd.services.rollout.settings import RolloutSettings

TOKEN = "test-token-0123456789"
END = "<|im_end|>"
TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MakePolicy = Callable[..., Policy]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes and two special tokens."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", END]
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, chat_template=TEMPLATE, model_max_length=256
    )


def make_model(seed: int) -> Qwen3ForCausalLM:
    """Grouped-query attention, tied embeddings; weights large enough that the next token is not uniform."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM has a kernel for on a CPU
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.25,
        eos_token_id=257,
        pad_token_id=257,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def make_policy(tmp_path_factory: pytest.TempPathFactory) -> MakePolicy:
    """Policies sealed on disk; equal arguments give the same folder."""
    made: dict[tuple[str, int], Policy] = {}

    def make(run: str = "demo", version: int = 1) -> Policy:
        if (run, version) not in made:
            folder = tmp_path_factory.mktemp(f"{run}-v{version}-")
            make_model(version).save_pretrained(folder)
            make_tokenizer().save_pretrained(folder)
            made[run, version] = Policy(run=run, weights=seal_weights(folder, version, {"run": run}))
        return made[run, version]

    return make


def probed(model: PreTrainedModel, precision: probe.Precision) -> probe.Probe:
    """What a trainer would say of `model`."""
    ids = probe.text(model.config.vocab_size)
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
    said = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    return probe.Probe(token_ids=ids, logprobs=said, precision=precision)


def tampered(policy: Policy) -> Policy:
    """`policy` with a hash that its folder does not have."""
    weights = policy.weights
    return policy.model_copy(update={"weights": Weights(version=9, uri=weights.uri, sha256="0" * 64)})


def write_prompts(folder: Path, questions: Sequence[str], *, has_context: bool | None = None) -> Ref:
    """A PROMPTS artifact with ids p0, p1, ..; one of contexts when `has_context` is given."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "problem_id": f"problem{i}",
            "split": "train",
            "messages": json.dumps([{"role": "user", "content": question}]),
            "has_context": has_context,
        }
        for i, question in enumerate(questions)
    ]
    schema = PROMPTS if has_context is None else PROMPTS.append(CONTEXTS.field("has_context"))
    return write_table(f"file://{folder}/prompts.parquet", rows, schema)


def open_service(state: Path) -> TestClient:
    """A service on `state`; a context manager that starts and stops it."""
    settings = RolloutSettings(token=TOKEN, state_dir=state, rollout_threads=1, rollout_burst_wait_s=1.0)
    return TestClient(create_app(settings), headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TestClient]:
    """A fresh service, ready."""
    with open_service(tmp_path / "state") as client:
        wait_ready(client)
        yield client


def wait_ready(client: TestClient) -> dict[str, object]:
    """What `/readyz` says once it is 200."""
    for _ in range(600):
        answer = client.get("/readyz")
        if answer.status_code == 200:
            facts: dict[str, object] = answer.json()
            return facts
        assert answer.status_code == 503
        time.sleep(0.05)
    raise AssertionError("never ready")


def run_job(client: TestClient, key: str, kind: str, request: dict[str, object]) -> dict[str, object]:
    """The job of `key`, ended."""
    answer = client.put(f"/v1/jobs/{key}", json={"kind": kind, "request": request})
    assert answer.status_code == 201, answer.text
    job: dict[str, object] = client.get(f"/v1/jobs/{key}", params={"wait": 30}).json()
    return job


def publish(client: TestClient, policy: Policy) -> None:
    """Publish `policy` and expect success."""
    job = run_job(
        client, f"publish.{policy.model}.{policy.weights.sha256[:6]}", "publish", {"policy": policy.model_dump()}
    )
    assert job["status"] == "succeeded", job
