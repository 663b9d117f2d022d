"""Generation by transformers: policies in memory, one batch at a time.

Invariants:
- A completion comes from exactly the version its request names (Law 9): under one lock, the version is looked
  up, loaded when it is not there, and used; every completion says which version made it.
- Nothing is loaded before its manifest and files match their hashes.
- A version that is an adapter shares nothing but files with its base: each run has a model of its own in memory.
- Tokenizers have locks of their own (`Language`), so that requests can be read and queued while a batch is drawn.
- A load that fails leaves no half-written model behind: the run is dropped from memory first.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from pmd.services.common import probe
from pmd.services.common.adapters import adapter_of, model_folder
from pmd.services.common.artifacts import MANIFEST, check_weights
from pmd.services.common.jobs import Retryable
from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Completion, Row
from pmd.services.rollout.engines import Drawn, Said, forget
from pmd.services.rollout.engines.language import Language
from pmd.services.rollout.engines.transformers.adapter import attach, fill
from pmd.services.rollout.engines.transformers.decode import ATTENTION
from pmd.services.rollout.engines.transformers.sampling import sample
from pmd.services.rollout.metrics import BATCH_ROWS, GENERATE_SECONDS, LOAD_SECONDS, LOADED_VERSION, TOKENS
from pmd.services.rollout.settings import RolloutSettings

log = logging.getLogger(__name__)

GIB = 2**30


@dataclass
class Resident:
    """A run's policy in memory."""

    policy: Policy
    model: PreTrainedModel
    language: Language
    shape: dict[str, str]
    """Hash of every file that is no tensor, and of an adapter's base: equal hashes mean that only tensors differ."""


def _shape(folder: Path) -> dict[str, str]:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    shape = {name: details["sha256"] for name, details in files.items() if not name.endswith(".safetensors")}
    base = adapter_of(folder)
    return shape if base is None else shape | {"": base.sha256}


def copy_tensors(model: torch.nn.Module, folder: Path) -> bool:
    """Copy the safetensors of `folder` into `model`; False when they are not exactly its tensors.

    A tied tensor may be missing from the files: it shares its memory with one that is there.
    """
    own = model.state_dict()
    files = sorted(folder.glob("*.safetensors"))
    names: set[str] = set()
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            names |= set(tensors.keys())
    filled = {own[name].data_ptr() for name in names & own.keys()}
    if not names <= own.keys() or any(tensor.data_ptr() not in filled for tensor in own.values()):
        return False
    for path in files:
        model.load_state_dict(load_file(path), strict=False)
    return True


def batches(lengths: Sequence[int], max_tokens: int, cells: int, most: int) -> Iterator[list[int]]:
    """Split rows into batches whose padded cache stays below `cells` positions, rows of like length together.

    Args:
        lengths: prompt length of each row, in tokens.
        max_tokens: completion length to reserve, in tokens.
        most: most rows of a batch.

    Yields:
        Indices of rows; at least one a batch, however small `cells` is.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):  # stable, so samples of a prompt stay together
        if batch and (len(batch) == most or (len(batch) + 1) * (lengths[i] + max_tokens) > cells):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


SMALL_STEP = 2**28
"""Rows times parameters of a decoding step that one CPU thread does best."""


def _tell(said: Said, places: Sequence[int], i: int, token_ids: Sequence[int]) -> None:
    """Tell of tokens of row `i` of a batch by its place in the whole."""
    said(places[i], token_ids)


class TransformersEngine:
    """Loads policies and draws completions; safe to call from several threads."""

    side_by_side = False

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        disable_progress_bar()  # the log is one JSON object a line
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if settings.rollout_device == "auto" else settings.rollout_device)
        bf16 = settings.rollout_dtype == "bf16" or (settings.rollout_dtype == "auto" and self.device.type == "cuda")
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self._threads = settings.rollout_threads or torch.get_num_threads()
        self._lock = threading.Lock()
        self._residents: OrderedDict[str, Resident] = OrderedDict()

    def details(self) -> dict[str, Any]:
        """What `/readyz` says of the engine."""
        return {"engine": "transformers", "device": str(self.device), "dtype": str(self.dtype).removeprefix("torch.")}

    def loaded(self) -> dict[str, int]:
        """The version in memory of each resident run."""
        return {run: resident.policy.weights.version for run, resident in list(self._residents.items())}

    def load(self, policy: Policy) -> None:
        """Have `policy` in memory.

        Raises:
            ArtifactError: when its folder is missing or differs from its manifest.
        """
        with self._lock:
            self._resident(policy)

    def release(self, run: str) -> None:
        """Drop the policy of `run` from memory; whoever asks for it loads it again."""
        with self._lock:
            self._drop(run)

    def _resident(self, policy: Policy) -> Resident:
        """The resident of exactly `policy`; loads it. The caller holds the lock."""
        resident = self._residents.get(policy.run)
        if resident is None or resident.policy.weights.sha256 != policy.weights.sha256:
            began = time.monotonic()
            folder = check_weights(policy.weights)
            self._drop(policy.run)
            take = fill if adapter_of(folder) else copy_tensors
            if resident is not None and resident.shape == _shape(folder) and take(resident.model, folder):
                resident.policy, how = policy, "copy"
            else:
                # Both models must not be in memory at once, nor more than the settings allow.
                resident, how = None, "full"
                while len(self._residents) >= self._settings.rollout_resident_runs:
                    self._drop(next(iter(self._residents)))
                resident = self._open(policy, folder)
            self._check(resident, folder)
            self._residents[policy.run] = resident
            seconds = time.monotonic() - began
            LOAD_SECONDS.labels(how).observe(seconds)
            LOADED_VERSION.labels(policy.run).set(policy.weights.version)
            log.info("weights loaded", extra={"model": policy.model, "how": how, "seconds": round(seconds, 3)})
        resident.policy = policy
        self._residents.move_to_end(policy.run)
        return resident

    def _drop(self, run: str) -> None:
        if self._residents.pop(run, None) is not None:
            LOADED_VERSION.remove(run)

    def _open(self, policy: Policy, folder: Path) -> Resident:
        if (base := adapter_of(folder)) is not None:
            check_weights(base)
        model = AutoModelForCausalLM.from_pretrained(model_folder(folder), dtype=self.dtype)
        if base is not None:
            attach(model, folder)
        model = model.to(self.device).eval()
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(ATTENTION)
        return Resident(policy, model, Language(model_folder(folder)), _shape(folder))

    @torch.inference_mode()
    def _check(self, resident: Resident, folder: Path) -> None:
        """Compare the model in memory with what its trainer said of it.

        Raises:
            WrongWeights: it is another model.
        """
        expected = probe.read(folder)
        if expected is None:
            return
        ids_1T = torch.tensor([expected.token_ids], device=self.device)
        logprobs_TV = resident.model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        said = logprobs_TV.gather(1, ids_1T[0, 1:, None])[:, 0].tolist()
        precision: probe.Precision = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        model = resident.policy.model
        found = probe.check(expected, said, precision, replica=socket.gethostname(), model=model)
        log.info("weights are the trainer's", extra={"model": model, "gap": found})

    def render(
        self, policy: Policy, conversations: Sequence[Sequence[Message]], thinking: bool = False
    ) -> tuple[list[tuple[int, ...]], int]:
        """Prompt ids of each conversation by the policy's chat template, and its context window in tokens.

        Args:
            thinking: whether the model may think before it answers; templates without such a switch ignore it.
        """
        language = self._language(policy)
        return language.render(conversations, thinking), language.window

    def _language(self, policy: Policy) -> Language:
        resident = self._residents.get(policy.run)
        if resident is None or resident.policy.weights.sha256 != policy.weights.sha256:
            with self._lock:
                resident = self._resident(policy)
        return resident.language

    def generate(
        self,
        policy: Policy,
        rows: Sequence[Row],
        sampling: Sampling,
        check: Callable[[], None],
        drawn: Drawn = forget,
        said: Said | None = None,
    ) -> list[Completion]:
        """Draw one completion per row, in the order of `rows`.

        Batches of the same call may have other work between them, each still made by exactly `policy`.

        Args:
            check: called before every forward pass; what it raises ends the work.
            drawn: told of each batch. The batches of what is left are those that this call would have made.
            said: told of tokens as they are drawn; None when nobody listens.

        Raises:
            ArtifactError: when the policy has to be loaded and cannot be.
            DivergedError: when the policy's logits are not finite.
            Retryable: when the device has no memory left.
        """
        done: dict[int, Completion] = {}
        with self._lock:
            cells = self._cells(self._resident(policy).model)
        lengths = [len(row.prompt_ids) for row in rows]
        for batch in batches(lengths, sampling.max_tokens, cells, self._settings.rollout_batch_rows):
            check()
            with self._lock:
                tell = None if said is None else partial(_tell, said, batch)
                made = self._batch(self._resident(policy), [rows[i] for i in batch], sampling, check, tell)
            new = dict(zip(batch, made, strict=True))
            done.update(new)
            drawn(new)
        return [done[i] for i in range(len(rows))]

    def _batch(
        self,
        resident: Resident,
        rows: Sequence[Row],
        sampling: Sampling,
        check: Callable[[], None],
        said: Said | None,
    ) -> list[Completion]:
        began = time.monotonic()
        if self.device.type == "cpu":
            # The setting is one of the calling thread. Waking others for a small product costs more than it saves:
            # half a million parameters decode 32 rows twice as fast on one thread as on two.
            small = len(rows) * resident.model.num_parameters() < SMALL_STEP
            torch.set_num_threads(1 if small else self._threads)
        try:
            drawn = sample(
                resident.model,
                rows,
                sampling,
                ends=resident.language.ends,
                prefill_tokens=self._settings.rollout_prefill_tokens,
                check=check,
                said=said,
            )
        except torch.OutOfMemoryError as error:
            raise Retryable(f"{error}; lower PMD_ROLLOUT_CACHE_GIB or PMD_ROLLOUT_PREFILL_TOKENS") from error
        texts = resident.language.texts([d.token_ids for d in drawn])
        BATCH_ROWS.observe(len(rows))
        GENERATE_SECONDS.observe(time.monotonic() - began)
        TOKENS.labels(resident.policy.run).inc(sum(len(d.token_ids) for d in drawn))
        version = resident.policy.weights.version
        return [
            Completion(d.token_ids, d.logprobs, text, "stop" if d.stopped else "length", version)
            for d, text in zip(drawn, texts, strict=True)
        ]

    def as_text(self, policy: Policy, token_ids: Sequence[int]) -> str:
        """Tokens that follow one another as text, without special tokens."""
        return self._language(policy).texts([token_ids])[0]

    def tokens_as_text(self, policy: Policy, token_ids: Sequence[int]) -> list[str]:
        """Each token of a completion as text, special tokens included."""
        return self._language(policy).each_as_text(token_ids)

    def close(self) -> None:
        """Nothing runs outside this process."""

    def _cells(self, model: PreTrainedModel) -> int:
        """Cache positions that one batch may use, all rows together."""
        config = model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Configs of models without grouped heads (GPT-2, GPT-NeoX) have no such word.
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        cell = 2 * config.num_hidden_layers * heads * head * self.dtype.itemsize
        if self._settings.rollout_cache_gib is not None:
            budget = self._settings.rollout_cache_gib * GIB
        elif self.device.type == "cuda":
            # Half: a layer is held twice while its buffer grows, and a step's logits need room too.
            # Counted from the total, not from what happens to be free, so that the same work is batched the same.
            budget = (torch.cuda.mem_get_info(self.device)[1] - torch.cuda.memory_allocated(self.device)) / 2
        else:
            budget = GIB
        return max(1, int(budget / cell))
