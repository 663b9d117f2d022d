"""Settings of the rollout service (environment, prefix `PMD_`)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pmd.services.common.settings import WorkerSettings


class RolloutSettings(WorkerSettings):
    """How this replica generates."""

    @model_validator(mode="after")
    def _own_jobs(self) -> Self:
        if self.jobs_url and not self.rollout_replicas:
            raise ValueError(
                "PMD_JOBS_URL wants PMD_ROLLOUT_REPLICAS: a process that generates has jobs of its own, as each loads"
                " weights for itself"
            )
        return self

    rollout_engine: Literal["transformers", "vllm"] = "transformers"
    """What draws completions; vLLM has to be installed (`make vllm` on a CPU, the extra 'vllm' on GPUs)."""
    rollout_replicas: str = ""
    """URLs of rollout services that do this one's work, separated by commas; a name with several addresses is a replica
    each. Empty: this process generates itself, and the other settings hold."""
    rollout_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes the GPU when there is one."""
    rollout_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the weights; auto is fp32 on a CPU and bf16 on a GPU."""
    rollout_threads: int | None = Field(default=None, ge=1)
    """Most CPU threads of one forward pass; None means one a core. Small steps of transformers take one whatever is
    said here."""
    rollout_resident_runs: int = Field(default=2, ge=1)
    """Runs whose model stays in memory; the least recently used one makes room for another. vLLM keeps one."""
    rollout_cache_gib: float | None = Field(default=None, gt=0)
    """Most memory for the key-value cache, in GiB; None: 1 on a CPU. On a GPU then half of what the weights leave
    (transformers), or what vLLM takes; set it when another process shares the GPU."""
    rollout_batch_rows: int = Field(default=512, ge=1)
    """Most completions that are drawn side by side; bounds the memory of a step's logits."""
    rollout_prefill_tokens: int = Field(default=32768, ge=1)
    """Most padded prompt tokens of one prefill forward pass of transformers; bounds the memory of its activations."""
    rollout_chat_tokens: int = Field(default=512, ge=1)
    """Longest chat completion, in tokens, when the request does not say."""
    rollout_burst_wait_s: float = Field(default=2.0, ge=0, le=60)
    """Longest wait, in seconds, for the rest of a burst of chat requests that its client announced."""
