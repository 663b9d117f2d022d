"""A run small enough for tests: a random Qwen3 of 20k parameters, made-up rollouts, a job process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from pmd.services.common.artifacts import dump_messages, seal_weights, write_table
from pmd.services.common.columns import CONTEXTS, ROLLOUTS, VERDICTS
from pmd.services.common.options import TrainSettings
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.wire import Message, Ref, Weights
from pmd.services.trainer.job.process import ProcessId
from pmd.services.trainer.job.spool import Spool
from pmd.services.trainer.launchers.local import COMPUTE_ENVIRONMENT

ROOT = Path(__file__).parents[2]
WORDS = [f"w{i}" for i in range(56)]
WINDOW = 512
"""Longest sequence of the tiny model, in tokens."""
CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_base(folder: Path, *, hidden: int = 16, layers: int = 2, vocab: int = 64) -> Weights:
    """A sealed version 0: random weights (seed 0), tied embeddings, word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    special = ["<pad>", "<end>", "<user>", "<system>", "<assistant>", "<unk>"]
    tokens = special + [f"w{i}" for i in range(vocab - len(special))]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    wrapped.chat_template = CHAT
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=max(2, hidden // 32),
            num_key_value_heads=max(1, hidden // 64),
            head_dim=min(32, hidden // 2),
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            initializer_range=0.2 if hidden < 64 else 0.05,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    (folder / "tf_model.h5").write_bytes(b"the same weights for another framework")
    wrapped.save_pretrained(folder)
    return seal_weights(folder, 0, {"run": "test"})


def rows(
    seed: int = 0,
    problems: int = 4,
    samples: int = 4,
    prompt: int = 6,
    completion: int = 8,
    context: int = 12,
    vocab: int = 64,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rollouts, verdicts and contexts of one step; lengths vary around the given numbers of tokens."""
    rng = random.Random(seed)
    rollouts, verdicts, contexts = [], [], []

    def words(n: int) -> list[int]:
        return [rng.randrange(6, vocab) for _ in range(rng.randint(max(1, n * 3 // 4), n * 5 // 4))]

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i - 6}" for i in ids)

    for p in range(problems):
        question = words(prompt)
        for s in range(samples):
            ids = [*words(completion), 1]
            name, problem = f"p{p}#{s}", f"p{p}"
            common = {"rollout_id": name, "problem_id": problem, "split": "train"}
            rollouts.append(
                common
                | {
                    "prompt_id": problem,
                    "sample": s,
                    "prompt_ids": [2, *question, 1, 4],
                    "token_ids": ids,
                    "logprobs": [-4.0 + rng.random() for _ in ids],
                    "text": text(ids[:-1]),
                    "finish_reason": "stop",
                    "policy_version": 0,
                }
            )
            passed = rng.random() < 0.5
            verdicts.append(
                common
                | {
                    "outcome": "passed" if passed else "failed",
                    "reward": float(passed),
                    "feedback": "",
                    "sandbox_tier": "",
                    "cpu_ms": 0.0,
                }
            )
            content = f"{text(question)}\n\n{text(words(context))}\nw1 w2 w3"
            contexts.append(
                {
                    "prompt_id": name,
                    "problem_id": problem,
                    "split": "train",
                    "messages": dump_messages([Message(role="user", content=content)]),
                    "has_context": True,
                    "items": "[]",
                    "demonstration": None,
                    "feedback": False,
                    "seq": 1,
                }
            )
    return rollouts, verdicts, contexts


SETTINGS = TrainSettings(loss="distill", lr=1e-2, weight_decay=0.01)


class TinyRun:
    """A run in a folder: writes requests, runs job processes, looks at results."""

    def __init__(self, folder: Path, base: Weights, settings: TrainSettings = SETTINGS) -> None:
        self.folder = folder
        self.base = base
        self.settings = settings
        self.spool = Spool(folder / "spool")

    def request(self, version: int, **changes: Any) -> TrainRequest:
        """The request of the step that trains `version`; its rollouts depend on the version only."""
        size = changes.pop("size", {})
        tables = rows(seed=version, **size)
        schemas: tuple[pa.Schema, ...] = (ROLLOUTS, VERDICTS, CONTEXTS)
        refs: list[Ref] = [
            write_table(f"file://{self.folder}/data/{version}.{i}.parquet", table, schema)
            for i, (table, schema) in enumerate(zip(tables, schemas, strict=True))
        ]
        fields = {
            "run": "tiny",
            "step": version,
            "base": self.base,
            "from_version": version,
            "rollouts": refs[0],
            "verdicts": refs[1],
            "contexts": refs[2],
            "settings": self.settings,
            "seed": 0,
            "out": f"file://{self.folder}/weights",
        }
        return TrainRequest(**fields | changes)

    def start(
        self, *, nproc: int = 1, idle_s: float = 600.0, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A job process; its output goes to `<folder>/log`."""
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"] if nproc > 1 else []
        command = [sys.executable, *launch, "-m", "pmd.services.trainer.job.job", "--spool", str(self.spool.root)]
        with (self.folder / "log").open("ab") as output:
            return subprocess.Popen(
                [*command, "--idle-s", str(idle_s), "--parent", ProcessId.me().model_dump_json()],
                cwd=ROOT,
                env=dict(os.environ) | COMPUTE_ENVIRONMENT | (env or {}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self, version: int, process: subprocess.Popen[bytes], timeout: float = 90.0) -> TrainResult:
        """The result of the step that trains `version`.

        Raises:
            AssertionError: with the end of the process's log, when it fails or takes too long.
        """
        deadline = time.monotonic() + timeout
        while (result := self.spool.result(version)) is None:
            error = self.spool.error(version)
            if error or process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "log").read_text()[-4000:]
                raise AssertionError(f"step {version}: {error}; exit {process.poll()}\n{log}")
            time.sleep(0.01)
        return result

    def train(self, *requests: TrainRequest, **options: Any) -> list[TrainResult]:
        """Submit all requests to one fresh process, one after the other, and end it."""
        process = self.start(**options)
        timeout = 90.0 if options.get("nproc", 1) == 1 else 240.0  # ranks wait for each other on a busy machine
        try:
            results = []
            for request in requests:
                self.spool.submit(request)
                results.append(self.wait(request.from_version, process, timeout))
            return results
        finally:
            process.kill()
            process.wait()

    def tensors(self, version: int) -> dict[str, Any]:
        """The exported tensors of a version."""
        from safetensors.torch import load_file

        return load_file(self.folder / "weights" / f"v{version:04d}" / "model.safetensors")


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a job's log."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
