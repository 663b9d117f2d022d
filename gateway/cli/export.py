"""`pmd export`: take a checkpoint away as a plain Hugging Face folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from pmd.gateway.cli.client import CliError, connect
from pmd.gateway.cli.output import RunId, console
from pmd.gateway.report.units import percent

BOOKKEEPING = frozenset({"manifest.json"})
"""Files of a published version that are not part of the model."""
PART = ".part"
"""What is being copied, within the folder to write."""
LAST = "config.json"
"""Without it nothing loads a folder."""


def export(
    run: RunId,
    to: Annotated[Path, typer.Option(help="Folder to write; it must not exist or be empty.")],
    step: Annotated[int | None, typer.Option(help="Step whose weights to take; the last one unless given.")] = None,
) -> None:
    """Copy a checkpoint, checked against its manifest, to a folder that transformers and vLLM load."""
    if os.path.lexists(to) and (not to.is_dir() or any(path.name != PART for path in to.iterdir())):
        raise CliError(f"{to} is not an empty folder; name another one with --to", code=2)
    checkpoint = pick(connect().get(f"/v1/runs/{run}/checkpoints"), run, step)
    copy_weights(checkpoint["weights"], to)
    scores = ", ".join(f"{split} {percent(s['pass_rate'])}" for split, s in checkpoint["evaluation"].items())
    console.print(f"step {checkpoint['step']} of {run} is in {to}" + (f" ({scores})" if scores else ""), soft_wrap=True)
    console.print(f"serve it: vllm serve {to}", soft_wrap=True)


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


def copy_weights(weights: dict[str, Any], to: Path) -> None:
    """Copy the folder of `weights` into `to`, which may be a mount or where the caller stands; it is no model until
    the copy is complete.

    Raises:
        CliError: when a file differs from the manifest, or the folder is not on this machine.
    """
    from pmd.services.common.artifacts import ArtifactError, check_weights  # noqa: PLC0415 - loads pyarrow
    from pmd.services.common.wire import Weights  # noqa: PLC0415

    reference = Weights.model_validate(weights)
    try:
        source = check_weights(reference)
    except ArtifactError as error:
        raise CliError(str(error)) from error
    made = not to.exists()
    to.mkdir(parents=True, exist_ok=True)
    part = to / PART
    shutil.rmtree(part, ignore_errors=True)  # of an export that was cut short
    try:
        shutil.copytree(  # the bytes alone: what the trainer kept private others may serve
            source, part, ignore=lambda _, names: BOOKKEEPING.intersection(names), copy_function=shutil.copyfile
        )
        for path in sorted(part.iterdir(), key=lambda path: path.name == LAST):
            path.rename(to / path.name)
        part.rmdir()
    except OSError:
        shutil.rmtree(to if made else part, ignore_errors=True)
        raise
