"""DeepSpeed, started quietly and on a bare machine, behind the few calls that a training step needs.

Invariants:
- Nothing is compiled. DeepSpeed's CPU backend builds `deepspeed_shm_comm_op` at its first start, which needs
  g++, ninja and Python's headers, takes up to two minutes, and is an error where they are missing. It asks
  `deepspeed.ops.__compatible_ops__` first, which is probed lazily and kept in the module "so edits to it
  persist"; an empty dict there says that no op can be built. Reductions then go through gloo, which computes
  the same sums, and the optimizer is torch's own.
- An optimizer step with a gradient that is not finite changes nothing, at every ZeRO stage.
- Gradients are of the *sum* of the ranks' losses. DeepSpeed averages over ranks, so losses are multiplied by
  their number; each rank's loss is its share of the batch's mean.
- What is trained are the parameters that require a gradient: all of a model, or an adapter's. Optimizer, clipping,
  checkpoints, the moving average and publishing walk by these; what is frozen is the base's, and stays there.
- Precision is fp32, or bf16 with fp32 master weights. DeepSpeed's stage 0 has no readable masters in bf16, so
  bf16 at stage 0 runs as stage 1, which on one rank holds exactly the same state.
"""

from __future__ import annotations

import datetime
import logging
import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pmd.services.common.options import TrainSettings

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("LOCAL_RANK", "0")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")

import deepspeed  # noqa: E402 -- reads DS_ACCELERATOR when it is imported
import deepspeed.ops  # noqa: E402

deepspeed.ops.__compatible_ops__ = {}
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""Longest wait of one rank for another; an idle job exchanges heartbeats far more often."""


def start_ranks() -> torch.device:
    """Join the process group (torchrun's, or one of a single process) and return this rank's device."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    else:
        alone = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=alone, rank=0, world_size=1)
    return device


def lost_a_rank(exception: Exception) -> bool:
    """Whether an exception says that another rank has ended. The cause, if there is one, is that rank's to tell."""
    # NCCL and the store have types for it; gloo has a RuntimeError that names one of its own source files.
    return isinstance(exception, dist.DistError) or (isinstance(exception, RuntimeError) and "gloo/" in str(exception))


def _keep(names: frozenset[str], _: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
    """Leave in a module's state what has one of these names."""
    for name in state.keys() - {prefix + name for name in names}:
        del state[name]


def _offloaded(settings: TrainSettings) -> dict[str, Any]:
    """What DeepSpeed is told to keep in the machine's own memory."""
    if settings.offload == "none":
        return {}
    return {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}


class Engine:
    """A model with its optimizer, on all ranks."""

    def __init__(self, model: nn.Module, settings: TrainSettings, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.device = device
        self.bf16 = settings.precision == "bf16"
        self.stage = max(settings.zero_stage, 1) if self.bf16 else settings.zero_stage
        self._clip = settings.grad_clip
        self._plain = self.stage == 0  # DeepSpeed then neither checks gradients nor reports their norm
        self._trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._adapts = len(self._trained) < len(list(model.parameters()))
        if self._adapts:
            # DeepSpeed leaves out what is frozen by its first name, and a tied embedding has two.
            model.register_state_dict_post_hook(partial(_keep, frozenset(self._trained)))  # type: ignore[no-untyped-call]
        optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.module, *_ = deepspeed.initialize(
            model=model.to(device),
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "zero_optimization": {"stage": self.stage, **_offloaded(settings)},
                "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own for a CPU is compiled
                "gradient_clipping": 0.0 if self._plain else settings.grad_clip,
                "bf16": {"enabled": self.bf16},
                "steps_per_print": None,
            },
        )
        self.module.train()  # gradient checkpointing asks for it; the model has no dropout (load_model)
        self.model: nn.Module = self.module.module

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of this rank's share of the loss; `last` of an optimizer step reduces over ranks."""
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss * self.world)

    def step(self, lr: float) -> tuple[float, bool]:
        """Clip, apply the accumulated gradient and clear it.

        Returns:
            Norm of the gradient before clipping, and whether it was finite (the step was applied).
        """
        for group in self.module.optimizer.param_groups:
            group["lr"] = lr
        if self._plain:
            norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._clip)
            if not torch.isfinite(norm):
                self.module.zero_grad()
                return float(norm), False
            self.module.step()
            return float(norm), True
        self.module.step()
        return float(self.module.get_global_grad_norm()), bool(self.module.was_step_applied())

    def trained_fp32(self) -> Iterator[tuple[str, Tensor]]:
        """Each trained parameter in full and in fp32, one at a time; all ranks must walk through together.

        A tensor is valid until the next one is asked for. Tied parameters appear once.
        """
        for name, parameter in self._trained.items():
            if self.bf16:
                yield name, deepspeed.utils.safe_get_full_fp32_param(parameter)
            elif self.stage == 3:
                with deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach()
            else:
                yield name, parameter.detach()

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write what is trained and the optimizer's state of all ranks below `folder`, with `facts` beside them."""
        self.module.save_checkpoint(
            str(folder), tag="deepspeed", client_state=facts, exclude_frozen_parameters=self._adapts
        )

    def load(self, folder: Path) -> dict[str, Any]:
        """Restore what `save` wrote and return its facts.

        Raises:
            RuntimeError: when there is no checkpoint, or one of another number of ranks or another ZeRO stage.
        """
        path, facts = self.module.load_checkpoint(str(folder), tag="deepspeed", load_module_strict=not self._adapts)
        if path is None:
            raise RuntimeError(f"DeepSpeed finds no checkpoint in {folder}")
        return dict(facts)

    def agree(self, ok: bool) -> bool:
        """Whether all ranks are ok: asked where one rank may fail alone and the others would wait for ever."""
        flag = torch.tensor([int(ok)])
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag.item())

    def gather(self, mine: Any) -> list[Any]:
        """What each rank has, on rank 0 in the order of ranks; elsewhere nothing."""
        parts = [None] * self.world if self.rank == 0 else []
        dist.gather_object(mine, parts if self.rank == 0 else None)
        return parts

    def total(self, values: Tensor) -> list[float]:
        """Sums of a vector over all ranks."""
        sums = values.cpu()
        dist.all_reduce(sums)
        return [float(value) for value in sums]
