"""Export of a policy version: an ordinary Hugging Face folder that any engine serves, or an adapter's, of PEFT.

Invariants:
- A version's folder is complete or absent: it is written beside its place, its manifest last, and renamed.
- Exporting twice changes nothing; the folder that is there stays. Its manifest names the request that made it,
  so weights of another training in the same place are an error, not an answer.
- Tokenizer, chat template and generation settings are the base model's files, untouched. An adapter's folder has none
  of them: its manifest names the base that they are in.
- The manifest holds what the trainer's model says about a fixed text (`pmd.services.common.probe`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pmd.services.common import probe
from pmd.services.common.adapters import ADAPTER_OF
from pmd.services.common.artifacts import MANIFEST, ArtifactError, local_path, seal_weights
from pmd.services.common.requests import TrainRequest
from pmd.services.common.wire import Weights
from pmd.services.trainer.files import copy_others
from pmd.services.trainer.training import adapter
from pmd.services.trainer.training.engine import Engine


def export(engine: Engine, base: Path, request: TrainRequest) -> Weights:
    """Export the engine's weights as the version after `request.from_version`; all ranks together.

    Args:
        base: local folder of version 0.

    Raises:
        ArtifactError: when `request.out` is not on a file system, or holds this version from another request.
    """
    version = request.from_version + 1
    folder = _folder(request, version)
    # One answer for all ranks, whatever each has seen: the gathering below is collective.
    if not engine.agree((folder / MANIFEST).is_file()):
        tensors = _gather(engine)
        said = _probe(engine)
        if engine.rank == 0:
            _write(engine, tensors, said, base, folder, request)
        engine.agree(True)
    manifest = (folder / MANIFEST).read_bytes()
    if json.loads(manifest).get("request") != _identity(request):
        raise ArtifactError(f"{folder} holds weights of another training; move them away, or use another `out`")
    if engine.rank == 0:
        for old in request.superseded:
            _remove(_folder(request, old))
    return Weights(version=version, uri=f"file://{folder}", sha256=hashlib.sha256(manifest).hexdigest())


def _folder(request: TrainRequest, version: int) -> Path:
    return local_path(request.out) / f"v{version:04d}"


def _remove(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first: what is half removed is no version
    shutil.rmtree(folder, ignore_errors=True)


def _identity(request: TrainRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def _gather(engine: Engine) -> dict[str, Tensor]:
    """What is trained in the run's precision, on rank 0's CPU; empty elsewhere. Tied parameters appear once."""
    dtype = torch.bfloat16 if engine.bf16 else torch.float32
    tensors: dict[str, Tensor] = {}
    for name, weight in engine.trained_fp32():
        if engine.rank == 0:
            tensors[name] = weight.to("cpu", dtype, copy=True)
    return tensors


@torch.no_grad()
def _probe(engine: Engine) -> probe.Probe | None:
    """What the model says about the probe's text; None when that is not finite: engines say so when they draw.

    All ranks together, because at ZeRO stage 3 each holds a part of the model.
    """
    model: Any = engine.model
    ids = probe.text(int(model.config.get_text_config().vocab_size))
    ids_1T = torch.tensor([ids], device=engine.device)
    logprobs_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    logprobs_T = logprobs_TV.gather(1, ids_1T[0, 1:, None])[:, 0]
    if not logprobs_T.isfinite().all():
        return None
    logprobs = logprobs_T.tolist()
    return probe.Probe(token_ids=ids, logprobs=logprobs, precision="bf16" if engine.bf16 else "fp32")


def _write(
    engine: Engine,
    tensors: dict[str, Tensor],
    said: probe.Probe | None,
    base: Path,
    folder: Path,
    request: TrainRequest,
) -> None:
    part = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed while it wrote
    part.mkdir(parents=True)
    facts: dict[str, Any] = {
        "run": request.run,
        "step": request.step,
        "from_version": request.from_version,
        "base": request.base.uri,
        "request": _identity(request),
        "probe": None if said is None else said.model_dump(),
    }
    if request.settings.lora is not None:
        adapter.save(engine.model, tensors, part, str(base))
        facts[ADAPTER_OF] = request.base.model_dump()
    else:
        _write_model(engine, tensors, base, part)
    seal_weights(part, request.from_version + 1, facts)
    shutil.rmtree(folder, ignore_errors=True)  # without a manifest it is no version
    part.rename(folder)


def _write_model(engine: Engine, tensors: dict[str, Tensor], base: Path, part: Path) -> None:
    saved = engine.model.state_dict().keys()
    buffers = {name: buffer.cpu() for name, buffer in engine.model.named_buffers() if name in saved}
    engine.model.save_pretrained(part, state_dict=tensors | buffers)  # type: ignore[operator]
    copy_others(base, part)
