"""`pmd export`: take a checkpoint away as a plain Hugging Face folder, or an adapter as one of PEFT.

Invariants:
- What a run publishes is the trainer's truth and stays as it is; an export is a copy of it in the base's precision.
- The folder that is written is no model until it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pmd.gateway.cli.card import CARD, HUB_ID, Form, front_matter, model_card
from pmd.gateway.cli.client import CliError, Gateway, connect
from pmd.gateway.cli.output import RunId, console
from pmd.gateway.report.units import percent

if TYPE_CHECKING:
    from pmd.gateway.cli.precision import Precision

MANIFEST = "manifest.json"
BOOKKEEPING = frozenset({MANIFEST})
"""Files of a published version that are not part of the model."""
PART = ".part"
"""What is being copied, within the folder to write."""
LAST = "config.json"
"""Without it nothing loads a folder."""
LAST_OF_ADAPTER = "adapter_config.json"
MERGED = "merged"
"""Within `PART`: an adapter and its base as one, before its precision is chosen."""
INDEX = "model.safetensors.index.json"
Choice = Literal["base", "fp32", "bf16", "fp16"]
BASE: Literal["base"] = "base"


def export(
    run: RunId,
    to: Annotated[Path, typer.Option(help="Folder to write; it must not exist or be empty.")],
    step: Annotated[int | None, typer.Option(help="Step whose weights to take; the last one unless given.")] = None,
    dtype: Annotated[
        Choice,
        typer.Option(help="Precision of the copy; base: that of the model that the run began with."),
    ] = BASE,
    merge: Annotated[bool, typer.Option("--merge", help="Of an adapter: the whole model, added to its base.")] = False,
) -> None:
    """Copy a checkpoint, checked against its manifest, to a folder that transformers and vLLM load."""
    if os.path.lexists(to) and (not to.is_dir() or any(path.name != PART for path in to.iterdir())):
        raise CliError(f"{to} is not an empty folder; name another one with --to", code=2)
    gateway = connect()
    checkpoint = pick(gateway.get(f"/v1/runs/{run}/checkpoints"), run, step)
    copy_weights(gateway, checkpoint, run, to, dtype, merge=merge)
    scores = ", ".join(f"{split} {percent(s['pass_rate'])}" for split, s in checkpoint["evaluation"].items())
    console.print(f"step {checkpoint['step']} of {run} is in {to}" + (f" ({scores})" if scores else ""), soft_wrap=True)
    console.print(f"serve it: pmd serve {to if '/' in str(to) else f'./{to}'}", soft_wrap=True)


def pick(checkpoints: list[dict[str, Any]], run: str, step: int | None) -> dict[str, Any]:
    """The checkpoint of `step`, or the last one.

    Raises:
        CliError: when there is none, saying which there are.
    """
    if not checkpoints:
        raise CliError(f"{run} has published no checkpoint yet; see `pmd runs show {run}`")
    by_step = {each["step"]: each for each in checkpoints}
    if step is None:
        return by_step[max(by_step)]
    if step not in by_step:
        raise CliError(
            f"{run} has no checkpoint of step {step}; there are {', '.join(map(str, sorted(by_step)))}", code=2
        )
    return by_step[step]


def checked(weights: dict[str, Any]) -> Path:
    """The folder of `weights`, each file as its manifest says.

    Raises:
        CliError: when a file differs from the manifest, or the folder is not on this machine.
    """
    from pmd.services.common.artifacts import ArtifactError, check_weights  # noqa: PLC0415 - loads pyarrow
    from pmd.services.common.wire import Weights  # noqa: PLC0415

    try:
        return check_weights(Weights.model_validate(weights))
    except ArtifactError as error:
        raise CliError(str(error)) from error


def copy_weights(
    gateway: Gateway, checkpoint: dict[str, Any], run: str, to: Path, dtype: Choice, *, merge: bool = False
) -> None:
    """Copy the folder of a checkpoint into `to`, which may be a mount or where the caller stands, in precision `dtype`
    and with a model card.

    Args:
        merge: an adapter is added to its base.

    Raises:
        CliError: when the published folder can't be read, not be merged, or not be written in this precision.
    """
    from pmd.gateway.cli.precision import NAMES, NoTensors, convert  # noqa: PLC0415 - loads numpy
    from pmd.services.common.adapters import adapter_of  # noqa: PLC0415 - loads pyarrow

    source = checked(checkpoint["weights"])
    is_adapter = adapter_of(source) is not None
    if merge and not is_adapter:
        raise CliError(
            f"version {checkpoint['weights']['version']} of {run} is a whole model; leave --merge out", code=2
        )
    report = gateway.get(f"/v1/runs/{run}/report")
    made = not to.exists()
    to.mkdir(parents=True, exist_ok=True)
    part = to / PART
    shutil.rmtree(part, ignore_errors=True)  # of an export that was cut short
    try:
        precision = precision_of(source, dtype)
        part.mkdir()
        sizes = 0
        whole = merged(source, part / MERGED) if merge else source
        for path in sorted(whole.iterdir()):
            if path.suffix == ".safetensors":
                sizes += convert(path, part / path.name, precision)
            elif path.name not in BOOKKEEPING and path.is_file():
                shutil.copyfile(path, part / path.name)  # the bytes alone: what was private others may serve
        shutil.rmtree(part / MERGED, ignore_errors=True)
        form = _form(source, merge=merge) if is_adapter else Form("model")
        if is_adapter and not merge:
            _name_base(part, str(report["recipe"]["model"]))
        else:
            _note(part, NAMES[precision], sizes)
        terms = front_matter((base_of(source) if is_adapter else part) / CARD)
        card = model_card(report["recipe"], report["run"]["id"], checkpoint, NAMES[precision], terms, form)
        (part / CARD).write_text(card, encoding="utf-8")
        for path in sorted(part.iterdir(), key=lambda path: path.name in {LAST, LAST_OF_ADAPTER}):
            path.rename(to / path.name)
        part.rmdir()
    except (OSError, NoTensors, CliError) as error:
        shutil.rmtree(to if made else part, ignore_errors=True)
        if isinstance(error, NoTensors):
            raise CliError(str(error)) from error
        raise


def precision_of(source: Path, dtype: Choice) -> Precision:
    """The precision to export `source` in; with `base`, that of the base's tensors, unless they are wider than what
    was published: more bytes would say nothing more.

    Raises:
        NoTensors: the base can't be read any more, or has no tensors.
    """
    from pmd.gateway.cli.precision import BYTES, CODES, NoTensors, commonest, precisions  # noqa: PLC0415 - loads numpy

    if dtype != BASE:
        return dtype
    base = base_of(source)
    own, found = commonest(precisions(source)), commonest(precisions(base))
    if own is None or found is None:
        missing = source if own is None else base
        raise NoTensors(f"{missing} holds no safetensors, so its precision is not known; say it with --dtype")
    return found if BYTES[CODES[found]] <= BYTES[CODES[own]] else own


def base_of(source: Path) -> Path:
    """The model that the published weights in `source` were trained from; of version 0, itself."""
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    return Path(str(manifest.get("base", source)).removeprefix("file://"))


def merged(source: Path, to: Path) -> Path:
    """The adapter in `source` and its base as one model, in `to`, by a process that may load torch.

    Raises:
        CliError: it can't be; the message has the last line of what it said.
    """
    command = [sys.executable, "-P", "-m", "pmd.services.trainer.merge", str(source), str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise CliError(f"the adapter can't be merged: {said}; `pip install 'pmd[trainer]'` has what it needs")
    return to


def _form(source: Path, *, merge: bool) -> Form:
    """What the export of an adapter holds, for its card."""
    config = json.loads((source / LAST_OF_ADAPTER).read_text(encoding="utf-8"))
    return Form("merged" if merge else "adapter", config["r"], config["lora_alpha"])


def _name_base(folder: Path, model: str) -> None:
    """Say in an adapter's config what it is of: the hub's name where there is one, else the folder that it was."""
    if hub := HUB_ID.fullmatch(model):
        config = json.loads((folder / LAST_OF_ADAPTER).read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": hub["id"], "revision": hub["revision"]}
        (folder / LAST_OF_ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _note(folder: Path, dtype: str, size: int) -> None:
    """Say the precision in config.json, and the size in the index of shards where there is one."""
    config = json.loads((folder / LAST).read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)  # its name before transformers 5, which reads only one of the two
    config["dtype"] = dtype
    (folder / LAST).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index.setdefault("metadata", {})["total_size"] = size
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
