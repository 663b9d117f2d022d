"""The silent fault of vLLM on CPUs, put back: a worker that loads a checkpoint and keeps the old output embedding."""

from __future__ import annotations

from pmd.services.rollout.engines.vllm.weights import CheckpointLoader


class ForgetfulLoader(CheckpointLoader):
    def load_checkpoint(self, folder: str) -> None:
        self.reload_weights(weights_path=folder)
