"""The long-lived training process of one run, also under torchrun: `python -m pmd.services.trainer.job.job`.

Invariants:
- State is a function of the base and of the requests applied, in order. A fresh process restores the newest
  complete checkpoint and applies the recorded requests after it again, so that kill -9 at any moment loses no
  step and doubles none.
- Of a step, what can be seen from outside comes in this order: exported weights, checkpoint (when due),
  result.
- An exception after the update began ends the process, because its state may be half updated. One before it
  (a missing artifact, say) is the step's error, and the process goes on.
- An error is that of the step which is waited for, also when a step before it could not be repeated: nobody asks
  for that one any more.
- That another rank is gone is no step's error: ranks die with their machine, or with torchrun, and not all at
  once. The process ends without a word, like one that was killed itself, and the next one resumes.
- A run has one such process: it holds the spool's lock.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import AutoConfig, AutoTokenizer

from pmd.services.common.artifacts import ROW_GROUP, ArtifactError, check_weights, read_table, write_table
from pmd.services.common.columns import TAUGHT
from pmd.services.common.options import TrainSettings
from pmd.services.common.requests import TrainRequest, TrainResult
from pmd.services.common.telemetry import configure_logging
from pmd.services.common.waiting import away, fullest
from pmd.services.common.wire import Ref
from pmd.services.trainer.export import export
from pmd.services.trainer.job import checkpoint
from pmd.services.trainer.job.process import ProcessId, end_with
from pmd.services.trainer.job.spool import Spool, StepError
from pmd.services.trainer.training.batch import BatchError, TrainBatch, assemble
from pmd.services.trainer.training.engine import Engine, lost_a_rank, start_ranks
from pmd.services.trainer.training.model import load_student
from pmd.services.trainer.training.objectives import LOSSES, needs_teacher
from pmd.services.trainer.training.teacher import Teacher
from pmd.services.trainer.training.update import Stopwatch, Updater

log = logging.getLogger(__name__)

POLL_S = 0.01
POLL_SHARE = 0.01
LONGEST_POLL_S = 1.0
"""A process looks for its next step after a hundredth of the time that it has waited already: between steps at once,
and a run that is paused costs nothing."""
HEARTBEAT_S = 30.0
"""How often idle ranks hear from rank 0."""
LOCK_PATIENCE_S = 30.0
"""A predecessor that was killed with its service needs a moment to end."""

UNDER_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun gives to its ranks."""

FIXED = (
    "loss",
    "lora",
    "teacher_weights",
    "precision",
    "zero_stage",
    "gradient_checkpointing",
    "offload",
    "weight_decay",
    "grad_clip",
)
"""Settings that model, teacher and engine are built with and that a run therefore can't change."""

INPUT_ERRORS = (ArtifactError, BatchError, ValueError, OSError)


class OutOfOrder(ValueError):
    """A step asks for a version that this run is not at."""


def step_error(exception: Exception, *places: str) -> StepError:
    """What is recorded of an exception.

    Args:
        places: where the step writes to; the full one is named where the exception does not say.
    """
    message = f"{type(exception).__name__}: {exception}"
    if (lacking := away(exception, *places)) is not None:
        return StepError(message=str(lacking), retryable=True, waits=True)
    if "inline_container.cc" in message:  # of a full disk torch says where in its own source it came up
        return StepError(message=f"storage can't be used, {fullest(*places)} is full", retryable=True, waits=True)
    return StepError(message=message, retryable=isinstance(exception.__cause__ or exception, OSError))


def learning_rate(settings: TrainSettings, version: int, scale: float) -> float:
    """Linear warm-up over `warmup_steps`, then as `decay` has it; times the step's own scale."""
    warm = min(1.0, (version + 1) / max(settings.warmup_steps, 1))
    done = max(0, version - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    left = {"none": 1.0, "linear": 1.0 - done, "cosine": (1.0 + math.cos(math.pi * done)) / 2}[settings.decay]
    return settings.lr * warm * left * scale


class Run:
    """The state of a run in this process."""

    def __init__(self, spool: Spool, first: TrainRequest, device: torch.device) -> None:
        """Load the base and restore the newest checkpoint, if there is one.

        Args:
            first: any recorded request of the run; all name the same base and engine settings.

        Raises:
            OutOfOrder: when the steps between the checkpoint and `first` are lost.
        """
        self._spool = spool
        self._base = check_weights(first.base)
        self._base_sha256 = first.base.sha256
        self._settings = first.settings
        self._tokenizer = AutoTokenizer.from_pretrained(self._base)
        self._window = AutoConfig.from_pretrained(self._base).get_text_config().max_position_embeddings
        begin = spool.request(first.base.version) or first  # what is drawn at the start must not depend on where it is
        settings = first.settings
        model = load_student(self._base, settings, begin.seed)
        teacher = Teacher(model, settings, device) if needs_teacher(settings) else None
        self._engine = Engine(model, settings, device)
        self._teacher = teacher
        self._updater = Updater(self._engine, teacher)
        self.version = first.base.version
        if saved := spool.saved_versions():
            self.version = saved[-1]
            result = checkpoint.load(spool, self.version, self._engine, teacher)
            if self._engine.rank == 0 and spool.result(self.version - 1) is None:
                spool.record(self.version - 1, result)
        for version in range(self.version, first.from_version):
            if spool.request(version) is None:
                raise OutOfOrder(
                    f"the newest checkpoint in {spool.root} is of version {self.version}, and the step after version"
                    f" {version} is not recorded there; restore that folder or start a new run"
                )

    def apply(self, request: TrainRequest) -> None:
        """Do one step, or repeat it when its result is recorded already.

        Errors of the input are recorded as the step's end. Any other exception leaves this object unusable.
        """
        began = time.perf_counter()
        watch = Stopwatch(self._engine.device)
        done = self._spool.result(self.version)
        batch: TrainBatch | None = None
        error = StepError(message="another rank failed to load the step; its log has the cause", retryable=True)
        try:
            with watch.part("load"):
                self._check(request)
                batch = self._load(request)
        except INPUT_ERRORS as exception:
            log.warning("step not loaded", extra={"run": request.run, "version": self.version}, exc_info=True)
            error = step_error(exception)
            if done is not None:  # it could be loaded once
                message = f"step {request.step} can't be repeated: {error.message}"
                error = StepError(message=message, retryable=True, waits=error.waits)
        if not self._engine.agree(batch is not None) or batch is None:
            if self._engine.rank == 0:
                self._spool.fail(error)
            return
        lr = learning_rate(request.settings, request.from_version, request.lr_scale)
        metrics = self._updater.step(batch, request.settings, lr, watch)
        with watch.part("export"):
            weights = done.weights if done else export(self._engine, self._base, request)
        seconds = {f"seconds_{name}": value for name, value in watch.seconds.items()}
        metrics |= {"lr": lr, "seconds": time.perf_counter() - began, **seconds}
        result = done or TrainResult(
            weights=weights, metrics=metrics, mismatch=self._updater.gaps, taught=self._write_taught(request)
        )
        self.version += 1
        if self.version % request.settings.checkpoint_every == 0 and not request.last:
            checkpoint.save(self._spool, self.version, result, self._engine, self._teacher)
        if self._engine.rank == 0 and done is None:
            self._spool.record(request.from_version, result)
        if self._engine.rank == 0 and request.last:
            checkpoint.drop(self._spool)
        log.info("step done", extra={"run": request.run, "version": self.version, **metrics})

    def _write_taught(self, request: TrainRequest) -> Ref | None:
        """Write what the teacher held of each token; beside the weights that it taught. Rank 0 has it."""
        rows = [{"rollout_id": name, "teacher_logprobs": logps} for name, logps in self._updater.taught.items()]
        if not rows:
            return None
        uri = f"{request.out}/taught/v{request.from_version + 1:04d}.parquet"
        return write_table(uri, sorted(rows, key=itemgetter("rollout_id")), TAUGHT, row_group=ROW_GROUP)

    def _check(self, request: TrainRequest) -> None:
        if request.from_version != self.version:
            raise OutOfOrder(f"the run is at version {self.version}, not {request.from_version}")
        if request.base.sha256 != self._base_sha256:
            raise ValueError("base: a run can't change its base model; start a new run")
        for name in FIXED:
            if getattr(request.settings, name) != (value := getattr(self._settings, name)):
                raise ValueError(f"settings.{name}: was {value} and can't change within a run; start a new run")
        if needs_teacher(request.settings) != (self._teacher is not None):
            raise ValueError("settings.reference_kl: a run keeps a reference from its start or never; start a new run")

    def _load(self, request: TrainRequest) -> TrainBatch:
        contexts = request.contexts if LOSSES[request.settings.loss].reads_teacher else None
        return assemble(
            read_table(request.rollouts),
            read_table(request.verdicts),
            read_table(contexts) if contexts else None,
            request,
            self._tokenizer,
            self._window,
        )


class Mailbox:
    """Rank 0 watches the spool and tells the others."""

    def __init__(self, spool: Spool, idle_s: float) -> None:
        self._spool = spool
        self._idle_s = idle_s

    def next(self, version: int | None) -> TrainRequest | None:
        """The request to apply at `version`, or None after `idle_s` without one.

        Args:
            version: where the process stands; None when it has loaded nothing yet, and the request that is waited
                for tells it what to load.
        """
        began = time.monotonic()
        deadline = began + self._idle_s
        while True:
            box: list[TrainRequest | bool | None] = [None]
            if dist.get_rank() == 0:
                heartbeat = time.monotonic() + HEARTBEAT_S
                while (request := self._look(version)) is None and time.monotonic() < min(heartbeat, deadline):
                    time.sleep(min(max(POLL_S, POLL_SHARE * (time.monotonic() - began)), LONGEST_POLL_S))
                box = [request or time.monotonic() >= deadline]
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
            if box[0] is not False:
                return box[0] if isinstance(box[0], TrainRequest) else None

    def _look(self, version: int | None) -> TrainRequest | None:
        return self._spool.waited_for() if version is None else self._spool.open(version)


def train(spool: Spool, idle_s: float, device: torch.device) -> None:
    """Apply requests as they come, until the run's last is done or none came for `idle_s` seconds."""
    mailbox = Mailbox(spool, idle_s)
    run: Run | None = None
    while (request := mailbox.next(run.version if run else None)) is not None:
        try:
            if run is None:
                run = Run(spool, request, device)
                continue
            run.apply(request)
            if request.last and run.version > request.from_version:
                return
        except Exception as exception:
            if not lost_a_rank(exception):
                spool.fail(step_error(exception, request.out, str(spool.root)))
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pmd.services.trainer.job.job", description=__doc__.splitlines()[0])
    parser.add_argument("--spool", type=Path, required=True, help="the run's folder, shared with the service")
    parser.add_argument("--idle-s", type=float, default=600.0, help="end after this many seconds without work")
    parser.add_argument("--parent", help="process that this one ends with, as ProcessId JSON")
    options = parser.parse_args(arguments)
    configure_logging("trainer-job")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.parent:
        end_with(ProcessId.model_validate_json(options.parent))
    agent = ProcessId.of(os.getppid()) if UNDER_TORCHRUN in os.environ else None
    if agent is not None:
        end_with(agent)  # ranks are in sessions of their own: what kills torchrun does not reach them
    spool = Spool(options.spool)
    with contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":
            stack.enter_context(spool.lock(LOCK_PATIENCE_S))
        device = start_ranks()
        train(spool, options.idle_s, device)
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
