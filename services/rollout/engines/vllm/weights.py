"""What runs inside vLLM's worker: loading a checkpoint folder into the model that is there.

vLLM mixes `CheckpointLoader` into its worker class (`--worker-extension-cls`), and `collective_rpc` calls its method.
One class for 0.32 and 0.33: the reload code, `dispatch_cpu_unquantized_gemm` and the routes are the same in both.
"""

from __future__ import annotations

from typing import Any


class CheckpointLoader:
    """More methods for vLLM's worker."""

    model_runner: Any
    reload_weights: Any

    def load_checkpoint(self, folder: str) -> None:
        """Load the safetensors of `folder`, whose config is that of the model in memory."""
        self.reload_weights(weights_path=folder)
        repack_embeddings(self.model_runner.get_model())


def repack_embeddings(model: Any) -> None:
    """Pack the output embedding anew for a CPU's matrix product.

    vLLM packs each matrix once it is loaded. A tied output embedding loads nothing of its own, so its reload puts the
    packing of the *old* weights back, and answers come from a new model with an old head, without an error.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # noqa: PLC0415 -- in the worker only
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding  # noqa: PLC0415
    from vllm.platforms import current_platform  # noqa: PLC0415

    if current_platform.is_cpu():
        for module in model.modules():
            if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)
